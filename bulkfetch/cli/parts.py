"""What an earlier run in shards left, taken up by a command of one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bulkfetch._config.options import Options


def join_parts(output: str, options: Options) -> None:
    """Join the parts that lie beside an output to it, so that nothing is fetched twice."""
    from bulkfetch._output.parts import any_part, remove_parts

    if not any_part(output):
        return
    from contextlib import closing

    from bulkfetch._engine.export import fingerprint
    from bulkfetch._output.layout import Layout
    from bulkfetch._scale.merge import open_whole
    from bulkfetch._scale.shards import absorb

    layout, marks = Layout.of(output), fingerprint(options)
    with closing(open_whole(output, marks)) as sink:
        sink.open()
        absorb(sink, layout, None, marks)
        remove_parts(layout)
