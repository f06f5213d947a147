"""What only a GPU can show, in one command: `make gpu`, or `python -m tests.gpu`.

Every check is a function of a device that runs in a process of its own (`child`), so that a failure spoils no other:
after some errors of CUDA a process can do nothing more.
"""
