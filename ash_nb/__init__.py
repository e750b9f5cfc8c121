"Domain-generalised semantic segmentation by adversarial semantic hallucination (ASH)."
__version__ = "0.1.0"

_home = {'Config': 'config', 'preset': 'presets', 'AshError': 'config', 'train': 'training', 'load_run': 'training', 'load_official': 'official',
         'open_dataset': 'datasets', 'evaluate_run': 'compare', 'METHODS': 'presets'}
__all__ = list(_home)

def __getattr__(name):
    "Import a public name when it is first used, so that `import ash_nb` costs nothing."
    from importlib import import_module
    if name not in _home: raise AttributeError(f'module ash_nb has no attribute {name!r}')
    return getattr(import_module(f'ash_nb.{_home[name]}'), name)

def __dir__(): return sorted([*globals(), *__all__])
