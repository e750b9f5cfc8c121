"Moved: see ash_nb.methods.reference."
from ash_nb.methods.reference import *  # noqa
