"""A process that runs functions for a test: as another user, on another machine, on another bus.

Started by `world.Agent`. Reads one JSON object a line: the source of a function, its name and its
arguments; writes one with what it returned or raised. Functions share the dictionary `kept`, where
sockets and threads live on between calls.
"""
import json
import os
import sys
import traceback

kept = {}
answers = os.fdopen(os.dup(1), "w")
# What libraries print goes to the log, not into the answers.
os.dup2(2, 1)

for line in sys.stdin:
    asked = json.loads(line)
    names = {"kept": kept}
    try:
        exec(asked["source"], names)
        answer = {"returned": names[asked["name"]](*asked["arguments"])}
    except Exception as error:  # a test looks at it
        traceback.print_exc()
        answer = {"raised": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
