#!/usr/bin/env bash
# Guess:    a server that shows a local app on localhost serves all that its page needs: it has a static folder with the
#           script, the style sheet and the font in it.
# Happens:  the page's first link is to fonts.googleapis.com, for the font that lies in its own static folder; and the
#           page's websocket goes to the address the server was started with, not to where the page came from, so that
#           through a tunnel on another port the page stays empty.
# Versions: textual-serve 1.1.3
# Source:   textual_serve/templates/app_index.html, textual_serve/server.py (handle_index)
# Met by:   who shows a terminal app of a login or air-gapped node in a browser, through ssh -L.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install -q --no-compile --target "$dir/lib" textual-serve==1.1.3 textual==8.2.8
export PYTHONPATH="$dir/lib"
cat > "$dir/run.py" <<'PY'
import asyncio
import re
import sys
from importlib.metadata import version
from pathlib import Path

import textual_serve
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from textual_serve.server import Server


async def page():
    """The page as it comes through a forwarded port."""
    app = await Server("true", host="localhost", port=8000)._make_app()
    async with TestServer(app) as here, ClientSession() as session:
        async with session.get(here.make_url("/"), headers={"Host": "localhost:9000"}) as answer:
            return await answer.text()


text = asyncio.run(page())
hosts = sorted(set(re.findall(r"https?://([\w.-]+)", text)) - {"localhost", "www.w3.org"})
sockets = re.findall(r"ws://[\w.:/-]+", text)
fonts = [p.name for p in Path(textual_serve.__file__).parent.rglob("*.ttf")]
print("textual-serve", version("textual-serve"))
print("guess: no other host; the websocket is at localhost:9000, where the page came from")
print(f"seen:  other hosts {hosts}; websocket {sockets}; fonts in the package {fonts}")
as_stated = "fonts.googleapis.com" in hosts and any(":8000" in s for s in sockets) and bool(fonts)
print("as stated" if as_stated else "CHANGED")
sys.exit(not as_stated)
PY
python3 "$dir/run.py"
