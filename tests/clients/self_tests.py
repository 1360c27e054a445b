"""Python's own tests of what the library stands for: waits, descriptors, processes, mappings. Debian has them in a package of their own
(libpython3.11-testsuite): where it is not installed, nothing is tested, and that is said. Prints how it ended."""
import contextlib
import io
import sys
import unittest

NAMES = ["select", "poll", "epoll", "selectors", "fork1", "fcntl", "mmap", "wait3", "openpty"]
try:
    tests = unittest.defaultTestLoader.loadTestsFromNames([f"test.test_{name}" for name in NAMES])
except (ImportError, AttributeError) as why:
    tests = None
    print("skipped:", why, file=sys.stderr)
if tests is None or tests.countTestCases() < 100:
    print("not installed")
    sys.exit(0)
said = io.StringIO()
with contextlib.redirect_stdout(io.StringIO()):
    result = unittest.TextTestRunner(stream=said).run(tests)
if not result.wasSuccessful():
    print(said.getvalue())
    sys.exit(1)
print("passed", result.testsRun, "skipped", len(result.skipped))
