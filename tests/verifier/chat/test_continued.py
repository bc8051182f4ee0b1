"""An answer that the conversation begins goes on from its end."""

import pytest

from tests.support.models.small_tokenizers import small_tokenizer
from verifier.chat.format import ChatFormat
from verifier.chat.prompt import ChatMessage, Conversation
from verifier.text.tokenizer import ChatError


@pytest.mark.parametrize("begun", ["The sea", "The sea </s> is"])
def test_a_begun_answer_is_not_ended(begun: str) -> None:
    chat = ChatFormat(small_tokenizer("byte_level"))
    messages = (ChatMessage("user", "Say."), ChatMessage("assistant", begun))
    ids = chat.encode(Conversation(messages, continues_last=True))
    text = chat.tokenizer.decode(ids, special_tokens=True)
    assert text == f"<|turn|>user\nSay.</s><|turn|>assistant\n{begun}"
    assert ids.count(chat.tokenizer._backend.eos_token_id) == 1


def test_a_template_that_hides_the_last_message_is_refused() -> None:
    hides = "{% for m in messages[:1] %}{{ m.content }}{% endfor %}"
    chat = ChatFormat(small_tokenizer("byte_level", chat_template=hides))
    messages = (ChatMessage("user", "Say."), ChatMessage("assistant", "The sea"))
    with pytest.raises(ChatError, match="chat template refuses"):
        chat.encode(Conversation(messages, continues_last=True))
