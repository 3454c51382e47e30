"""From what a client asks to the text that the model reads.

Knows templates. It must not know tokens, pictures or the wire.
"""

from executor.errors import DocumentError, ErrorCode

VQA_TEMPLATE = "Question: {} Answer:"
"""The template of BLIP-2's model card and of the original article, for T5 and OPT checkpoints alike."""


def render(prompt: str | None, template: str = VQA_TEMPLATE) -> str:
    """Puts a bare question into `template`, and leaves every other prompt as it is.

    A bare question ends with `?` and has no `Question:` or `Answer:` in it (in any case of letters).

    Args:
        prompt: the client's text.
        template: text with `{}` where the question goes.

    Returns:
        The text for the model.

    Raises:
        DocumentError: `EMPTY_PROMPT` where there is nothing but white space.
    """
    if prompt is None or not prompt.strip():
        raise DocumentError(
            ErrorCode.EMPTY_PROMPT,
            "the document has no text in 'prompt'; ask a question, or send 'a photo of' for a caption.",
        )
    lowered = prompt.lower()
    if lowered.rstrip().endswith("?") and "question:" not in lowered and "answer:" not in lowered:
        return template.replace("{}", prompt.strip())
    return prompt
