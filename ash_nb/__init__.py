"Domain-generalised semantic segmentation by adversarial semantic hallucination (ASH)."

__version__ = '0.1.0'

_home = {
    'AshError': 'core.config',
    'Config': 'core.config',
    'METHODS': 'methods.registry',
    'preset': 'methods.presets',
    'open_dataset': 'data.datasets',
    'load_official': 'official',
    'train': 'runs.training',
    'load_run': 'runs.folder',
    'load_model': 'runs.model',
    'export_run': 'runs.export',
    'evaluate_run': 'runs.scoring',
    'compare': 'runs.compare',
}
__all__ = list(_home)


def __getattr__(name):
    "Import a public name when it is first used, so that `import ash_nb` costs nothing."
    from importlib import import_module

    if name not in _home:
        raise AttributeError(f'module ash_nb has no attribute {name!r}')
    return getattr(import_module(f'ash_nb.{_home[name]}'), name)


def __dir__():
    return sorted([*globals(), *__all__])
