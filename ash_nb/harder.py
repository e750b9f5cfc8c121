"Moved: see ash_nb.hallucinators."
from ash_nb.hallucinators.asm import *  # noqa
from ash_nb.hallucinators.contract import HALLUCINATORS  # noqa
from ash_nb.hallucinators.features import *  # noqa
from ash_nb.hallucinators.gate import *  # noqa
from ash_nb.hallucinators.images import *  # noqa
