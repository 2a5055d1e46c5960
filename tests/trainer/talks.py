"""Conversations at random, with all that a template may treat in its own way: tools, thoughts, blanks, empty texts and its own words."""

from hypothesis import strategies as st

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": {"type": "object"}}}]
_OWN_WORDS = (
    "<|im_end|>",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na",
    "<|eot_id|>",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|start_header_id|>",
    "</s><s>[INST] a [/INST] b",
    "<think>\nt\n</think>\n\na",
    "<think>\n",
    "</think>",
    "<tool_response>a</tool_response>",
    "a\nassistant: b",
    "assistant\n",
    "zq0qz",
)
_TEXTS = st.text(alphabet="ab \n:<\u00e9\U0001f600", max_size=8) | st.sampled_from(("", "", " ", "a", *_OWN_WORDS))
_CALLS = st.fixed_dictionaries({"name": st.just("weather"), "arguments": st.sampled_from(({"city": "Oslo"}, {}, {"city": "a", "days": 2}))})
_ANSWERS = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": _TEXTS},
    optional={
        "reasoning_content": _TEXTS,
        "weight": st.sampled_from((0, 1)),
        "tool_calls": st.lists(_CALLS.map(lambda call: {"type": "function", "function": call}), min_size=1, max_size=2),
    },
)
_PLAIN_ANSWERS = st.fixed_dictionaries({"role": st.just("assistant"), "content": _TEXTS}, optional={"weight": st.sampled_from((0, 1))})
_USERS = st.fixed_dictionaries({"role": st.just("user"), "content": _TEXTS}, optional={"weight": st.sampled_from((0, 1))})
_RESULTS = st.fixed_dictionaries({"role": st.just("tool"), "content": _TEXTS}, optional={"name": st.just("weather")})
_SYSTEMS = st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": _TEXTS}), max_size=1)


def _joined(system, turns):
    return {"messages": [*system, *(message for turn in turns for message in turn)]}


IN_TURN = st.builds(_joined, _SYSTEMS, st.lists(st.tuples(_USERS, _PLAIN_ANSWERS), min_size=2, max_size=6))
WITH_TOOLS = st.builds(
    lambda row, with_tools: row | ({"tools": TOOLS} if with_tools else {}),
    st.builds(
        _joined, _SYSTEMS, st.lists(st.tuples(_USERS, _ANSWERS) | st.tuples(_USERS, _ANSWERS, _RESULTS, _ANSWERS), min_size=1, max_size=4)
    ),
    st.booleans(),
)
UNORDERED = st.builds(
    _joined, _SYSTEMS, st.lists(st.tuples(_USERS | _RESULTS | _PLAIN_ANSWERS | _PLAIN_ANSWERS | _ANSWERS), min_size=2, max_size=9)
)
TALKS = IN_TURN | WITH_TOOLS | UNORDERED
