"""Reads the HTML pages that tests look at."""

from html.parser import HTMLParser

_VOID = ("meta", "img", "br", "input", "hr", "link")


class Page(HTMLParser):
    """Collects elements and text of a page, and fails on elements that do not close.

    Attributes:
        seen: elements in order, each its name and attributes.
        words: texts between them, without blanks around; no empty ones.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.words.append(data.strip())
