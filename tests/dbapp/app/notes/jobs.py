from plain.jobs import Job, register_job

from .models import Note


@register_job
class WriteNote(Job):
    def __init__(self, name: str) -> None:
        self.name = name

    def run(self) -> None:
        Note.query.create(stream=self.name, text="written by a job")
