"""Any text is shown as text, whatever characters it holds."""

from invariance_propagation.report import page

NASTY = '<script>alert(1)</script> & "quotes" \' $title'


def test_nothing_said_becomes_html() -> None:
    parts = [
        page.paragraph(NASTY, "warning"),
        page.paragraph(NASTY),
        page.heading(NASTY),
        page.note(NASTY),
        page.plot("data:,", NASTY, NASTY),
        page.details(NASTY, NASTY),
        page.picture("data:,", NASTY, NASTY, NASTY, wrong=True),
        page.strip(NASTY, []),
        page.mark("chosen", NASTY),
        page.table([NASTY], [(NASTY, NASTY, NASTY)]),
    ]
    html = page.page(NASTY, {"Part": "".join(parts)})
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 20
    assert html.count("$title") == 20  # a template is filled in once
    assert html.count('"quotes"') == 0


def test_empty_parts_are_left_out() -> None:
    html = page.page("Title", {"Some part": "<p>x</p>", "Nothing": ""})
    assert '<a href="#some-part">Some part</a>' in html
    assert '<section id="some-part">' in html
    assert "Nothing" not in html
    assert page.block("plots", ["", ""]) == page.table(["a"], []) == ""
    assert page.heading("") == page.note("") == ""


def test_a_wrong_label_is_marked_by_more_than_colour() -> None:
    right = page.picture("data:,", "image 3", "0.50", "7")
    wrong = page.picture("data:,", "image 3", "0.50", "7", wrong=True)
    assert "<figcaption>0.50<br>7</figcaption>" in right
    assert '<span class="other">0.50 \N{MULTIPLICATION X}<br>7</span>' in wrong


def test_a_row_has_its_note() -> None:
    html = page.table(
        ["one", "two"], [("rank", "of what", "1", "2"), ("x", "", "3", "4")]
    )
    assert "rank<small>of what</small></th><td>1</td><td>2</td>" in html
    assert '<th scope="row">x</th><td>3</td><td>4</td>' in html
    assert html.index("one") < html.index("two") < html.index("rank")
