"Moved: see ash_nb.hallucinators."
from ash_nb.hallucinators.ash import *  # noqa
from ash_nb.hallucinators.ash import _noise, _shares  # noqa
from ash_nb.hallucinators.contract import *  # noqa
