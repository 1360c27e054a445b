"""Runs modules of Python's own tests, as they are: `python.py RECORD SECONDS NAME...`, a name as unittest has it.

Each test is two lines of RECORD: "start ID", then its outcome and ID; "end" when all are done. A test that takes longer than
SECONDS ends this process. Called again with the same RECORD it leaves out what was begun and goes on with the rest.
"""
import faulthandler
import sys
import unittest
import warnings

from test import support
from test.support import os_helper


class Result(unittest.TestResult):
    def __init__(self, record, seconds):
        super().__init__()
        self.record, self.seconds = record, seconds

    def say(self, word, test):
        self.record.write(f"{word} {test.id()}\n")
        self.record.flush()

    def startTest(self, test):
        super().startTest(test)
        self.outcome = "ok"
        self.say("start", test)
        faulthandler.dump_traceback_later(self.seconds, exit=True)

    def stopTest(self, test):
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self.say(self.outcome, test)

    def worse(self, outcome, test, why):
        self.outcome = outcome
        print(f"{test.id()}: {outcome}\n{why}", file=sys.stderr)
        if not isinstance(test, unittest.TestCase):
            # What a whole class or module needs.
            self.say("start", test)
            self.say(outcome, test)

    def addError(self, test, err):
        super().addError(test, err)
        self.worse("error", test, self.errors[-1][1])

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.worse("failed", test, self.failures[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.worse("failed", test, f"{subtest}: {self._exc_info_to_string(err, test)}")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if self.outcome == "ok":
            self.outcome = "skipped"
        if not isinstance(test, unittest.TestCase):
            self.worse("skipped", test, reason)


def walk(suite, begun):
    """The same suite without the tests that were begun: classes stay together, with what sets them up."""
    if not isinstance(suite, unittest.TestSuite):
        return suite if suite.id() not in begun else None
    return type(suite)(test for test in (walk(test, begun) for test in suite) if test is not None)


def main(path, seconds, names):
    try:
        with open(path) as record:
            begun = {line.split(" ", 1)[1].rstrip("\n") for line in record if line.startswith("start ")}
    except FileNotFoundError:
        begun = set()
    # What regrtest leaves off unless asked: much memory and time, and what needs the world.
    support.use_resources = []
    support.verbose = False
    warnings.simplefilter("ignore")
    with open(path, "a") as record, os_helper.temp_cwd(quiet=True):
        tests = walk(unittest.defaultTestLoader.loadTestsFromNames(names), begun)
        tests.run(Result(record, seconds))
        record.write("end\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
