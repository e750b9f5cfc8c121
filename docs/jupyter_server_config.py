"""JupyterLab reads this in .venv/etc/jupyter, where make setup puts it: a notebook is saved as nbdev-clean leaves it.

So opening, running and saving a notebook changes nothing in git but what was edited, and the outputs."""

from nbdev.clean import clean_jupyter

c = get_config()  # noqa: F821
c.ContentsManager.pre_save_hook = clean_jupyter
