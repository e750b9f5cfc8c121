"Moved: what was ash_nb.methods is in its parts."


def __getattr__(name):
    from importlib import import_module

    for module in ('ash_nb.methods.step', 'ash_nb.methods.learner', 'ash_nb.methods.terms', 'ash_nb.methods.guard'):
        if module.rpartition('.')[2] == name:
            raise AttributeError(name)
        found = import_module(module)
        if hasattr(found, name):
            return getattr(found, name)
    return getattr(import_module('ash_nb.core.devices'), name)
