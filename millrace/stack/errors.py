"""What can go wrong with the local stack. Every message says what happened, where, and what to do.

StackError
+-- StackRunning       a second `up` on a folder whose processes are alive, or another command at work on it
+-- StackAbsent        the folder holds no stack
+-- StackIncomplete    a program, a version or the jars are missing
+-- ServiceFailed      a service died or did not answer in time while it was started
"""


class StackError(Exception):
    """The local stack cannot do what was asked."""


class StackRunning(StackError):
    """The folder's stack is running already, or another command is at work on it."""


class StackAbsent(StackError):
    """The folder holds no stack: `millrace up` was never run on it."""


class StackIncomplete(StackError):
    """Something that the stack is made of is not installed."""


class ServiceFailed(StackError):
    """A service died, or did not answer in time, while the stack was started."""
