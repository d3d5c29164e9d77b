"""How many requests stage 1 sends to an object store, step by step, as the code does.

One request: a HEAD, GET, PUT or DELETE, or a page of 1,000 names of a listing. Before it lists a
folder the code asks whether there is one, which is a listing too.
"""

from dataclasses import dataclass, fields

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
    """A store and its source, both remote.

    Attributes:
        columns: of the store, all written by the job.
    """

    columns: int

    def start(self, shards: int, done: int) -> Requests:
        """List the source twice, open the store, name its columns, see what is done."""
        source = Requests(list=2 * _pages(shards), put=1, get=2)
        # The view set is written down twice; before, what is there of it is looked up.
        columns = Requests(put=self.columns + 1, get=self.columns + 1, list=2)
        if done:
            columns += Requests(list=2, get=2 * self.columns)
        return source + columns + self.look(done)

    def look(self, done: int) -> Requests:
        """List the commits of every column."""
        return Requests(list=self.columns * _listing(done))

    def see_who_is_there(self, records: int, elsewhere: int) -> Requests:
        """List all attempts, of which `elsewhere` are at other shards, and read this shard's."""
        return Requests(list=_listing(records + elsewhere), get=records)

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
        """Look for leftovers in every folder and count the store by its commits."""
        leftovers = Requests(list=7, get=self.columns) + self.look(done).times(3)
        return self.look(done).times(2) + leftovers + Requests(get=self.columns * done)


def _pages(names: int) -> int:
    return -(-names // _PAGE)


def _listing(names: int) -> int:
    """Ask whether there is such a folder, then list it; the first says no where it is empty."""
    return 1 + _pages(names)
