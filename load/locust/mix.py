"""All of them at once, in the shares that their weights say: 10 : 5 : 3 : 1."""

from api import Program
from browse import Visitor
from events import Listener
from uploads import Uploader

__all__ = ["Listener", "Program", "Uploader", "Visitor"]
