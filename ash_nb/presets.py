"Moved: see ash_nb.methods.registry and ash_nb.methods.presets."
from ash_nb.methods.presets import *  # noqa
from ash_nb.methods.registry import *  # noqa
