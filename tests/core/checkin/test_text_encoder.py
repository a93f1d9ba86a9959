"""An LLM text encoder of the graph as Check-in's reader; its adapter needs no host."""

import importlib
import sys
import types
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest

from personalq_core.checkin.checkin import CheckIn
from personalq_core.checkin.llm import LlmCheckIn
from personalq_core.models.llm import LlmError, LlmSettings

from .library import BEARS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def host():
    pack = types.ModuleType("personalq_text_pack")
    pack.__path__ = [str(ROOT)]
    sys.modules["personalq_text_pack"] = pack
    return importlib.import_module("personalq_text_pack.nodes.host.text_encoder")


class WritingClip:
    """What ComfyUI's CLIP offers where its encoder is a language model."""

    def __init__(self, answer):
        self.cond_stage_model = SimpleNamespace(generate=len)
        self.asked = []
        self._answer = answer

    def tokenize(self, text, skip_template=True, min_length=None, thinking=True):
        assert not skip_template and not thinking
        self.asked.append(text)
        return text

    def generate(self, tokens, do_sample, max_length):
        return self._answer(tokens).split(" ")

    def decode(self, ids, skip_special_tokens):
        return " ".join(ids)


def test_it_answers_yes_and_no(host):
    clip = WritingClip(lambda text: " Yes." if "bear" in text else "No, it is not")
    llm = host.TextEncoderLlm(clip)
    assert host.can_write(clip)
    assert llm.yes("Is it?", "a bear", 5) == pytest.approx(0.9)
    assert llm.yes("Is it?", "a mug", 5) == pytest.approx(0.1)


def test_what_is_neither_yes_nor_no_is_an_error(host):
    def broken(_):
        raise RuntimeError("out of memory")

    with pytest.raises(host.LlmError, match="neither yes nor no"):
        host.TextEncoderLlm(WritingClip(lambda _: "Perhaps")).yes("", "", 5)
    with pytest.raises(host.LlmError, match="out of memory"):
        host.TextEncoderLlm(WritingClip(broken)).yes("", "", 5)


def test_it_asks_for_the_nodes_own_thread_and_lets_the_user_stop_it(host):
    class InterruptProcessingException(Exception):
        """As ComfyUI raises it while an encoder writes."""

    def stopped(_):
        raise InterruptProcessingException

    assert host.TextEncoderLlm.in_turn
    with pytest.raises(InterruptProcessingException):
        host.TextEncoderLlm(WritingClip(stopped)).yes("", "", 5)


def test_an_ordinary_clip_cannot_write(host):
    assert not host.can_write(SimpleNamespace(generate=len, cond_stage_model=object()))
    network = SimpleNamespace(generate=len, transformer=object())
    newer = SimpleNamespace(generate=len, clip="clip_l", clip_l=network)
    assert not host.can_write(SimpleNamespace(generate=len, cond_stage_model=newer))
    network.transformer = SimpleNamespace(generate=len)
    assert host.can_write(SimpleNamespace(generate=len, cond_stage_model=newer))


def test_it_reads_beside_an_engine_that_has_its_index_already(host):
    engine = CheckIn()
    index = engine.index(BEARS)
    clip = WritingClip(lambda text: "yes" if "green hat" in text else "no")
    reading = LlmCheckIn.beside(engine, LlmSettings(Adapter(host.TextEncoderLlm(clip)), 5.0))
    assert reading.index(BEARS) is index
    now = datetime(2025, 11, 20, tzinfo=timezone.utc)
    decision = reading.decide("my bear on the beach", BEARS, now=now)
    assert clip.asked
    assert "green hat" in decision.candidates[0].card.description


class Adapter:
    """The pack's own LlmError is another class than the core's here, where both are loaded."""

    def __init__(self, llm):
        self._llm, self.in_turn = llm, llm.in_turn

    def yes(self, *asked):
        try:
            return self._llm.yes(*asked)
        except Exception as error:
            raise LlmError(str(error)) from error
