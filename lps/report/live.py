"""What a reader can drag and turn in a page: data for a script of the book that fills an element of the page."""

import json
from typing import Any

from IPython.display import HTML


def live(name: str, data: Any) -> HTML:
    """The data and the scripts of ``book/_static/<name>.js``, which fills the element ``lps-<name>``."""
    scripts = "".join(f'<script defer src="../_static/{script}.js"></script>' for script in ("widgets", name))
    return HTML(f'<script type="application/json" id="lps-{name}-data">{json.dumps(data)}</script>\n{scripts}')
