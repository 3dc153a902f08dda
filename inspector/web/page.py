"""The one page: textual-serve's terminal, from this server alone.

textual-serve's own page fetches a font from a server of its own choosing; here it is the one that
lies in that package, and nothing is asked for elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from inspector.errors import UsageError
from inspector.report.html.markup import stylesheet, tag

__all__ = ["FILES", "SCRIPT", "package_files", "page"]

#: Files of textual-serve that the page takes, by the name under which they are served.
FILES = {
    "terminal.js": ("js/textual.js", "text/javascript"),
    "terminal.css": ("css/xterm.css", "text/css"),
    "mono.ttf": ("fonts/RobotoMono-VariableFont_wght.ttf", "font/ttf"),
}

#: textual-serve's terminal hears no key before it is clicked at; this one listens from the start,
#: which it may not do before it is connected.
SCRIPT = """\
addEventListener("load", function focus() {
  if (!document.body.classList.contains("-loaded")) return setTimeout(focus, 50);
  document.querySelector(".xterm-helper-textarea").focus();
});
"""

_CSS = """
@font-face{font-family:"Roboto Mono";src:url("mono.ttf");font-weight:100 700}
html,body{margin:0;height:100%;background:#0c181f;color:#e3e7ec;font:16px "Roboto Mono",monospace}
.textual-terminal{width:100vw;height:100vh;overflow:hidden}
.ended{display:none;position:absolute;inset:0;z-index:20;background:#0c181fe6;padding:20vh 10vw}
body.-closed .ended{display:block}
#start{display:none}
a{color:inherit}
"""


def package_files() -> dict[str, Path]:
    """The files of the installed textual-serve, by the name under which they are served.

    Raises:
        UsageError: It is not installed, or is another than is known.
    """
    hint = "pip install 'hsdp-inspect[web]' installs it"
    try:
        import textual_serve  # lazy: only who serves needs it
    except ImportError as error:
        raise UsageError("--serve needs textual-serve, which is not installed", hint) from error
    folder = Path(str(textual_serve.__file__)).with_name("static")
    found = {name: folder / place for name, (place, _) in FILES.items()}
    if missing := [path for path in found.values() if not path.is_file()]:
        raise UsageError(f"the installed textual-serve lacks {missing[0].name}", hint)
    return found


def page(title: str, socket_url: str) -> str:
    """The page."""
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"hsdp-inspect {title}"),
        tag("link", rel="icon", href="data:,"),
        tag("link", rel="preload", href="mono.ttf", as_="font", type="font/ttf", crossorigin=""),
        tag("link", rel="stylesheet", href="terminal.css"),
        stylesheet(_CSS),
        tag("script", src="terminal.js"),
        tag("script", src="page.js"),
    )
    terminal = tag(
        "div", id="terminal", class_="textual-terminal",
        data_session_websocket_url=socket_url, data_font_size=16,
    )  # fmt: skip
    again = tag("p", "The session has ended. ", tag("a", "Start another", href="."))
    body = (tag("div", again, class_="ended"), tag("p", id="start"), terminal)
    return f"<!DOCTYPE html>\n{tag('html', tag('head', *head), tag('body', *body), lang='en')}\n"
