"""What is said about prompts that the server would refuse."""

from host.validation import find_problems

OBJECT_INFO = {
    "Source": {
        "input": {"required": {"mode": [["fast", "slow"]], "size": ["INT", {"min": 1, "max": 9}]}},
        "output": ["IMAGE"],
    },
    "Sink": {"input": {"required": {"image": ["IMAGE"]}, "optional": {"mask": ["MASK"]}}, "output": []},
}
SOURCE = {"class_type": "Source", "inputs": {"mode": "fast", "size": 3}}


def test_good_prompt_has_no_problems():
    prompt = {"1": SOURCE, "2": {"class_type": "Sink", "inputs": {"image": ["1", 0]}}}

    assert find_problems(prompt, OBJECT_INFO) == []


def test_every_problem_has_its_line():
    prompt = {
        "1": {"class_type": "Source", "inputs": {"mode": "odd", "size": 10}},
        "2": {"class_type": "Sink", "inputs": {"mask": ["1", 0]}},
        "3": {"class_type": "Nope", "inputs": {}},
        "4": {"class_type": "Sink", "inputs": {"image": ["9", 0]}},
    }

    assert find_problems(prompt, OBJECT_INFO) == [
        "node 1 (Source): mode = 'odd' is not offered; there are ['fast', 'slow']",
        "node 1 (Source): size = 10 is not within 1 and 9",
        "node 2 (Sink): image is required and open",
        "node 2 (Sink): mask takes MASK and is linked to IMAGE",
        "node 3 is of unknown type 'Nope'",
        "node 4 (Sink): image is linked to node 9, which does not exist",
    ]
