"""How many requests stage 1 sends to an object store, step by step, as the code does.

One request: a HEAD, GET, PUT or DELETE, or a page of 1,000 names of a listing, be it empty.
test_stage_one_requests.py holds these against a file system that counts.
"""

from dataclasses import dataclass, fields

from reinforced_data.store.counting import COUNTED_SHARDS

_PAGE = 1000


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Counts by kind; `list` in pages."""

    list: int = 0
    head: int = 0
    get: int = 0
    put: int = 0
    delete: int = 0

    def __add__(self, other: "Requests") -> "Requests":
        """Add up by kind."""
        return Requests(
            list=self.list + other.list,
            head=self.head + other.head,
            get=self.get + other.get,
            put=self.put + other.put,
            delete=self.delete + other.delete,
        )

    def times(self, count: int) -> "Requests":
        """The same so many times."""
        return Requests(**{field.name: count * getattr(self, field.name) for field in fields(self)})

    @property
    def total(self) -> int:
        """All kinds together."""
        return self.list + self.head + self.get + self.put + self.delete


@dataclass(frozen=True, kw_only=True)
class StoreShape:
    """A store and its source, both remote; the source is named shard by shard, by a pattern.

    Attributes:
        columns: of the store, all written by the job.
    """

    columns: int

    def start(self, shards: int, done: int, *, begun: bool) -> Requests:
        """List the source twice, open the store, name its columns, see what is done.

        `begun` says that another process has named them.
        """
        lists = Requests(list=2 * _pages(shards) + 2 * _pages(self.columns if begun else 0))
        # The view set is written down twice. Until a worker knows that conditional puts work it
        # looks first; the first file that it creates it puts twice, and then looks after a refusal.
        named = self.columns + 1
        there = 1 + named if begun else 1
        created = Requests(put=1 if begun else 2 + named, head=1 + there, get=there)
        read = Requests(get=2 + named + (2 * self.columns if begun else 0))
        return lists + created + read + self.look(done)

    def look(self, done: int) -> Requests:
        """List the commits of every column."""
        return Requests(list=self.columns * _pages(done))

    def see_who_is_there(self, records: int, elsewhere: int) -> Requests:
        """List all attempts, of which `elsewhere` are at other shards, and read this shard's."""
        return Requests(list=_pages(records + elsewhere), get=records)

    def write_shard(self, elsewhere: int) -> Requests:
        """Take a place, find nothing committed, read the source, write, give the place back."""
        there = Requests(put=1, delete=1) + self.see_who_is_there(0, elsewhere)
        source = Requests(head=1, get=1)
        return there + source + Requests(get=self.columns, put=2 * self.columns)

    def find_done(self, elsewhere: int) -> Requests:
        """Take a place, read the commits, which are all there, give the place back."""
        there = Requests(put=1, delete=1) + self.see_who_is_there(0, elsewhere)
        return there + Requests(get=self.columns)

    def end(self, done: int) -> Requests:
        """Forget the dead, look for leftovers in every folder, see what is done."""
        names = Requests(list=1 + 2 * _pages(self.columns), get=self.columns)
        leftovers = names + self.look(done).times(3)
        return self.look(done).times(2) + self.see_who_is_there(0, 0) + leftovers

    def count(self, done: int, written: int) -> Requests:
        """Read the commits of all shards, or of many those that this process has written."""
        return Requests(get=self.columns * (done if done <= COUNTED_SHARDS else written))

    def read(self, done: int) -> Requests:
        """Open the store for training: its columns, and every commit record of theirs."""
        opened = Requests(list=_pages(self.columns), head=1, get=1 + self.columns)
        return opened + self.look(done) + Requests(get=self.columns * done)


def _pages(names: int) -> int:
    return max(1, -(-names // _PAGE))
