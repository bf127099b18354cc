"""The network: low-resolution projection, streaming sparse diffusion transformer, decoders.

Layout letters used throughout:
    B batch (always 1 in inference), C channels, T video frames, H W pixels;
    F latent frames (4 video frames each), h w token rows and columns (16x16 pixels each);
    D channels of the transformer, of which each head has d.
"""
