"""The commands of `vaeport`: a module for each, with its flags (`add`) and what it does.

`flags.py` has the flags that several commands share, `source.py` opens the server or package that they name,
`inputs.py` finds image files, `outputs.py` writes results. Nothing heavy is imported before a command needs it.
"""
