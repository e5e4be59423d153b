"""Any bytes for the parser, guided by coverage; the words are libFuzzer's:

    python tests/fuzz_atheris.py -max_total_time=60 tests/data

The process ends at the first input on which the ways of reading differ, anything but rows or a
CourseError comes out, or more than 600 MB are taken.
"""

import sys

import atheris

with atheris.instrument_imports(include=["bulkfetch._soap.parser", "bulkfetch._soap.records"]):
    from test_parser import WAYS, outcome


def judge(data):
    answers = [outcome(way, data) for way in WAYS]
    if answers != [answers[0]] * len(answers):
        raise AssertionError(f"the ways of reading differ: {answers}")


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-rss_limit_mb=600", *sys.argv[1:]], judge)
    atheris.Fuzz()
