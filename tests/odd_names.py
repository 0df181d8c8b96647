"""Names that Linux allows a folder to have, and that a program may misread."""

ODD_NAMES = (
    *("runs[1]", "a*b", "a?b", "a]b", "a\\b", "[!a]", "{a}", "a b ", "-a", "~a", "..a"),
    *("a\nb", "\u00e4\u6f22", "a%20b", "a#b", "$a", "a,b", "a:b", "'\"", "gs:", "a@2"),
    *("\x01\x7f", "not utf-8 \udcff", "x" * 250),
)
