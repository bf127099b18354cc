"""How containers state the language of a track; QuickTime has a number for each that it knows.

Source: FFmpeg 8.1, libavformat/isom.c; `tests/video/test_tracks.py` reads every one back.
"""

QUICKTIME_MUXER = "mov"
MUXERS_WITHOUT_LANGUAGES = ("avi", "flv")
UNDETERMINED = "und"
# What FFmpeg calls QuickTime's numbers: now the one code of ISO 639-2, now the other, and some of its own.
_CODES = """
alb amh ara arm asm aym aze baq bel ben bul bur cat ces chi dan dut dzo eng epo est fin fra geo ger gre
grn guj heb hin hun ice ind iri ita jav jpn kan kas kaz khm kin kir kor kur lao lat lav lit mac mal mar
may mlg mlt mol mon nep nor nya ori orm per pol por pus que ron run rus san sin slk slv smi snd som spa
sve swa tam tat tel tgk tgl tha tib tir tuk tur uig ukr urd uzb vie wel yid
"""
QUICKTIME_CODES = frozenset([*_CODES.split(), "fo ", "hr ", "pa ", "sr "])
_OWN_CODES = {"swe": "sve", "gle": "iri", "fao": "fo ", "hrv": "hr ", "pan": "pa ", "srp": "sr "}
_OTHER_CODES = {
    **{"deu": "ger", "nld": "dut", "ell": "gre", "zho": "chi", "isl": "ice", "fas": "per", "msa": "may", "sqi": "alb"},
    **{"hye": "arm", "eus": "baq", "kat": "geo", "cym": "wel", "mkd": "mac", "mya": "bur", "bod": "tib"},
    **{"fre": "fra", "cze": "ces", "rum": "ron", "slo": "slk"},
}
_ISO_CODES = {own: iso for iso, own in _OWN_CODES.items()}


def to_container(muxer: str, language: str | None) -> str | None:
    """What a muxer has to be told for a language of ISO 639-2 to be stated, or None if there is none, or no way."""
    if language in (None, UNDETERMINED) or muxer in MUXERS_WITHOUT_LANGUAGES:
        return None
    return to_quicktime(language) if muxer == QUICKTIME_MUXER else language


def to_quicktime(language: str) -> str | None:
    """What FFmpeg calls a language of ISO 639-2 in QuickTime's files, or None if these have no number for it."""
    code = {**_OWN_CODES, **_OTHER_CODES}.get(language, language)
    return code if code in QUICKTIME_CODES else None


def to_iso(language: str) -> str:
    """The code of ISO 639-2 for one that FFmpeg read; the same unless it is QuickTime's own."""
    return _ISO_CODES.get(language, language)
