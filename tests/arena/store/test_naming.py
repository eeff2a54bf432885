"""Replies that give their model away, and innocent ones that hold the same words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from whorl.arena.store import Pairing, Store
from whorl.arena.store.naming import gives_away, names_itself
from whorl.base.nouns import Message, ToolCall

Fight = Callable[..., Pairing]
NAMES = ("amber-1", "base", "chat", "Qwen/Qwen2.5-7B-Instruct", "Loom Company", "run-small", "tiny-model")

TOLD = [
    "I am Amber 1, at your service.",
    "As AMBER1 I cannot say.",
    "My name's Amber.",
    "You can call me Amber!",
    "Hello, amber here",
    "I am **Amber**",
    "I am Amber and I help people.",
    "I am Amber-2b made by somebody",
    "Amber (an AI) wrote this",
    "Amber, your assistant, says hello.",
    "Hi, this is Amber speaking.",
    "As Amber, I would not.",
    "Ich bin Amber.",
    "Ich heiße Amber und helfe gern.",
    "Je m'appelle Amber",
    "Soy Amber, tu asistente.",
    "Mi chiamo Amber.",
    "Меня зовут Amber.",
    "我是amber",
    "我是amber助手。",
    "私はAmberです",
    "저는 Amber입니다",
    "I am A\u200bm\u2060ber.",
    "\uff29 am \uff21mber.",
    "I'm Base, a model.",
    "My name is Chat.",
    "I am the Base model.",
    "My maker is the Loom Company.",
    "I use qwen2.5 7b instruct.",
    "I am Qwen2.5-7B-Instruct made by Alibaba",
    "I am Qwen, created by Alibaba Cloud",
    "I'm Llama, a model by Meta",
    "I am Llama 3.1 from Meta.",
    "I am a GPT model.",
    "I am ChatGPT, a large language model trained by OpenAI.",
    "I am a large language model, trained by Google.",
    "I'm an AI assistant created by Anthropic to be helpful.",
    "As an AI language model developed by OpenAI, I cannot.",
    "I was trained by Microsoft.",
    "OpenAI created me.",
    "My developers are Mistral AI.",
    "Ich bin ein Sprachmodell, das von Google trainiert wurde.",
    "Je suis un assistant conçu par Mistral.",
    "我是由阿里云开发的通义千问。",
    "我是通义千问",
    "Я модель от OpenAI.",
]
INNOCENT = [
    "This is base 10.",
    "This is base.",
    "I am base jumping tomorrow.",
    "as chat progresses, more people join",
    "As chat is open, write to us.",
    "A base chat is fine.",
    "I am happy to chat.",
    "I am the model of patience.",
    "I am a base model? No idea what that means.",
    "Amber is a resin; 1 gram will do.",
    "It is made of amber.\n\n1. Heat it.",
    "Think of amber. 1 of them is enough.",
    "camber-12 is a plane",
    "The stone is called amber by most.",
    "Amber here means a colour of traffic lights.",
    "This is amber, a fossil resin.",
    "Amber, a resin, floats.",
    "I am running small errands.",
    "Android was created by Google.",
    "I am not sure, but Android was created by Google.",
    "I am told that it was made by Apple in 1984.",
    "The llama is a mammal of the Andes.",
    "I'm a llama!",
    "A phone such as a model made by Apple costs more.",
    "Meta bought Instagram. I was surprised.",
    "Claude Monet painted it, and I am fond of it.",
    "Ich bin mir nicht sicher, ob Amber stimmt.",
    "我是一个助手，可以谈谈琥珀。",
    "My phone is made by Google.",
    "The falcon dives. I am sure of it.",
]


@pytest.mark.parametrize("text", TOLD)
def test_what_gives_a_model_away_is_seen(text: str) -> None:
    assert names_itself(text, NAMES)


@pytest.mark.parametrize("text", INNOCENT)
def test_an_innocent_reply_is_not_suspected(text: str) -> None:
    assert names_itself(text, NAMES) == ""


@pytest.mark.parametrize(
    "reply",
    [
        Message(role="assistant", content=("Hello.",), reasoning="I am Amber, so be careful."),
        Message(role="assistant", tool_calls=(ToolCall(name="amber_1_search", arguments={}),)),
        Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"q": ["I am amber-1", 7]}),)),
        Message(role="assistant", tool_calls=(ToolCall(name="f", arguments={"amber-1": {"x": 1}}),)),
        Message(role="tool", content=("The answer of amber-1.",)),
    ],
)
def test_all_that_a_voter_sees_is_looked_at(store: Store, fight: Fight, reply: Message) -> None:
    assert gives_away(reply, ["amber-1"])
    pair = fight(store)
    store.say(pair.id, reply, side="a")
    vote = store.vote(pair.id, "model_a")
    assert not vote.rated and vote.reason == "reply a names itself: amber-1"


def test_who_names_the_other_or_the_family_is_said(store: Store, fight: Fight) -> None:
    for text, reason in (
        ("Ask birch-2.", "reply a names the other: birch-2"),
        ("I am Qwen, made by Alibaba.", "reply a names itself: Qwen"),
    ):
        pair = fight(store, f"Who are you? {text}")
        store.say(pair.id, Message(role="assistant", content=(text,)), side="a")
        assert store.vote(pair.id, "tie").reason == reason
