"""What a figure says below itself."""


def note_of(figure):
    return " ".join(" ".join(part.get_text() for part in figure.texts).split())
