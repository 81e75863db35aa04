"""Words of providers and of the layers between, as their documentation and their servers write."""

from __future__ import annotations

import time
from typing import Any

import pytest

from monitorlab.monitors.api import replies
from monitorlab.monitors.api.replies import BROKEN, CUT, FINISHED, UNKNOWN, WITHHELD

ENDINGS = {
    FINISHED: "stop STOP Stop end_turn endTurn stop_sequence STOP_SEQUENCE eos eos_token EOS_TOKEN "
              "eosFound COMPLETE tool_calls tool-calls TOOL_CALL tool_use function_call FINISH "
              "FinishReason.STOP FINISH_REASON_STOP",
    CUT: "length LENGTH max_tokens MAX_TOKENS maxTokens model_length token_limit ERROR_LIMIT "
         "max_output_tokens model_context_window_exceeded maxPredictedTokensReached "
         "contextLengthReached FinishReason.MAX_TOKENS FINISH_REASON_MAX_TOKENS",
    WITHHELD: "content_filter content-filter CONTENT_FILTERED contentFiltered SAFETY RECITATION "
              "PROHIBITED_CONTENT BLOCKLIST SPII IMAGE_SAFETY LANGUAGE refusal sensitive "
              "guardrail_intervened ERROR_TOXIC FinishReason.PROHIBITED_CONTENT",
    BROKEN: "error ERROR network_error insufficient_system_resource abort cancelled USER_CANCEL",
    UNKNOWN: "OTHER FINISH_REASON_UNSPECIFIED MALFORMED_FUNCTION_CALL MALFORMED_RESPONSE "
             "pause_turn compaction NOT_FINISHED TIME_LIMIT banana null stopped-early 1",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "word"), [(kind, word) for kind, words in ENDINGS.items()
                                            for word in words.split()])
def test_endings(kind: str, word: str) -> None:
    assert replies.Reply.kind_of(word) == kind


def test_an_empty_ending_is_unknown() -> None:
    assert replies.Reply.kind_of("") == replies.Reply.kind_of("  ") == UNKNOWN


def error(message: str, code: object = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code, **more}}


OF_THE_SAMPLE = [
    (400, error("Filtered.", "content_filter")),
    (400, error("Filtered.", innererror={"code": "ResponsibleAIPolicyViolation"})),
    (400, error("The response was filtered due to the prompt triggering the content management "
                "policy. Please modify your prompt and retry.")),
    (400, error("No.", innererror={"content_filter_result": {"hate": {"filtered": True}}})),
    (400, error("Invalid prompt: your prompt was flagged as potentially violating our usage "
                "policy. Please try again with a different prompt.", "invalid_prompt")),
    (400, error("Your request was rejected as a result of our safety system.",
                "content_policy_violation")),
    (403, {"code": "The caller does not have permission", "error": "Content violates usage "
           "guidelines. Team: t, API key ID: k, Failed check: SAFETY_CHECK_TYPE_BIO"}),
    (403, error("m requires moderation on P. Your input was flagged", 403)),
    (403, error("Forbidden", 403, metadata={"reasons": ["violence"], "flagged_input": "x"})),
    (400, {"type": "error", "error": {"message": "Output blocked by content filtering policy"}}),
    (400, error("Content Exists Risk")),
    (400, {"error": {"type": "content_filter", "code": 400, "message":
                     "The request was rejected because it was considered high risk"}}),
    (400, error("Input data may contain inappropriate content.", "data_inspection_failed")),
    (400, error("The prompt could not be submitted. It contains sensitive words that violate "
                "Responsible AI practices.")),
    (400, error("系统检测到输入或生成内容可能包含不安全或敏感内容", "1301")),
    (400, error("BadRequestError: ContentPolicyViolationError: x", "400")),
    (400, "Your request was blocked by our moderation system."),
    (424, {"errors": [{"code": 2016, "message": "Prompt blocked due to its contents"}]}),
    (500, error("Input data may contain inappropriate content")),
]
OF_SOMETHING_ELSE = [
    (401, error("wrong key", "content_filter")),
    (429, error("too many moderation requests were blocked by our safety system")),
    (404, error("No endpoints found that match your content policy")),
    (403, "Forbidden"),
    (403, error("You do not have access to this model", "model_not_found")),
    (403, error("Your account has been deactivated: it violated our usage policies")),
    (403, error("Your resource has been temporarily blocked because we detected behavior that may "
                "violate our content policy.")),
    (403, error("Access was terminated due to violation of our policies.")),
    (403, error("Access denied: you may not see this content")),
    (403, error("Your IP address was blocked for safety reasons")),
    (403, error("Country, region, or territory not supported")),
    (403, error("Request is prohibited by organization's policy. VPC Service Controls")),
    (403, "<html><title>Sorry, you have been blocked</title>inappropriate content</html>"),
    (400, error("Unknown parameter: 'safety_identifier'.")),
    (400, error("Invalid guardrail identifier")),
    (400, error("Invalid content type: expected application/json")),
    (400, error("This model's maximum context length is 8192 tokens", "context_length_exceeded")),
    (400, None),
    (500, error("internal error")),
]


@pytest.mark.parametrize(("status", "body"), OF_THE_SAMPLE)
def test_a_refusal_of_the_sample_is_told(status: int, body: Any) -> None:
    assert replies._refuses(status, body)


@pytest.mark.parametrize(("status", "body"), OF_SOMETHING_ELSE)
def test_what_speaks_of_key_account_or_request_is_no_refusal(status: int, body: Any) -> None:
    assert not replies._refuses(status, body)


def test_a_text_that_the_server_repeats_is_not_its_message() -> None:
    """A validator sends the request back, with whatever words the sample has."""
    body = {"detail": [{"loc": ["body", "top_k"], "msg": "Input should be a valid integer",
                        "input": {"messages": "This content violates our usage policy"}}]}
    assert not replies._refuses(422, body)
    assert replies._message_of(body) == "body.top_k: Input should be a valid integer"


@pytest.mark.parametrize(
    "words",
    [
        "System role not supported",
        "Template error: syntax error: System role not supported (in <string>:1)",
        "Conversation roles must alternate user/assistant/user/assistant/...",
        "Only user and assistant roles are supported!",
        "Only user, assistant and tool roles are supported, got system.",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        'messages: Unexpected role "system". Use the top-level system parameter.',
        "messages.0.role: Input should be 'user' or 'assistant'",
        "This model does not support system messages",
        "'system' role is not supported",
        "Invalid role: system",
        "raise_exception at row 3,\ncolumn 9:\nSystem role not supported",
    ],
)
def test_a_system_role_that_is_refused(words: str) -> None:
    assert replies.NoReply(words, 400).rejects_system and replies.NoReply(words, 500).rejects_system
    assert not replies.NoReply(words, 403).rejects_system


@pytest.mark.parametrize("words", ["maximum context length is 10", "System overloaded",
                                   "the system is not available", "internal system error"])
def test_other_errors_are_not_about_the_system_role(words: str) -> None:
    assert not replies.NoReply(words, 400).rejects_system


@pytest.mark.parametrize(
    ("words", "field"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens'.",
         "max_tokens"),
        ("'temperature' does not support 0.0 with this model.", "temperature"),
        ("body.seed: Extra inputs are not permitted", "seed"),
        ("top_logprobs must be at most 5", "top_logprobs"),
        ("You requested 512 in max_tokens: maximum context length is 4096", ""),
        ("the prompt is too long", ""),
        ("the user must be known", ""),
        ("body.user: Extra inputs are not permitted", "user"),
        ("seeds are nice", ""),
    ],
)
def test_a_field_that_is_refused(words: str, field: str) -> None:
    sent = {"max_tokens": 1, "temperature": 0, "seed": 0, "logprobs": True, "top_logprobs": 20,
            "user": "me"}
    assert replies.NoReply(words, 400).rejected_field(sent) == field
    assert replies.NoReply(words, 500).rejected_field(sent) == ""


@pytest.mark.parametrize(
    ("headers", "words", "seconds"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, "", 1.5),
        ({"retry-after": "1m"}, "", 60.0),
        ({}, "Please try again in 6m0s. Visit", 360.0),
        ({}, "Please retry after 26 seconds.", 26.0),
        ({}, "Rate limit of 3 per 1 min. Please try again in 340ms", 0.34),
        ({}, "Try again in 3 minutes", 180.0),
        ({}, "try again in 23h59m0s", 86340.0),
        ({}, "wait for 2.5 s", 2.5),
        ({}, '{"details": [{"retryDelay": "34s"}]}', 34.0),
        ({}, '{"retry_after_ms": 1200}', 1.2),
        ({"retry-after": "2"}, "try again in 1h", 2.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "0",
          "x-ratelimit-reset-tokens": "6m30s", "x-ratelimit-remaining-tokens": "70"}, "", 1.0),
        ({"x-ratelimit-reset-requests": "51m", "x-ratelimit-reset-tokens": "7.66s"}, "", 7.66),
        ({"x-ratelimit-reset-requests": "51m"}, "", None),  # the daily one, and not used up
        ({"x-ratelimit-reset-requests": "51m", "x-ratelimit-remaining-requests": "0"}, "", 3060.0),
        ({"ratelimit-reset": "30"}, "", 30.0),
        ({"x-ratelimit-reset-tokens": "-1"}, "", None),
        ({}, "too many requests, slow down", None),
    ],
)  # fmt: skip
def test_waits(headers: dict[str, str], words: str, seconds: float | None) -> None:
    assert replies._wait_of(headers, words) == pytest.approx(seconds)


@pytest.mark.parametrize("header", ["x-ratelimit-reset", "anthropic-ratelimit-tokens-reset"])
def test_a_limit_may_be_reset_at_a_point_in_time(header: str) -> None:
    now = time.time()
    for text in (str(now + 50), str(1000 * (now + 50)),
                 time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 50))):
        assert replies._wait_of({header: text}) == pytest.approx(50, abs=2)


def test_a_blocked_prompt_names_the_filter() -> None:
    blocked = replies._blocked_by
    feedback = {"promptFeedback": {"blockReason": "SAFETY"}}
    assert blocked(feedback) == "the prompt was blocked: SAFETY"
    found = {"prompt_filter_results": [{"content_filter_results": {
        "hate": {"filtered": False}, "violence": {"filtered": True}}}]}
    assert blocked(found) == "the content filter found violence"
    assert blocked({"promptFeedback": {"safetyRatings": []}}) == blocked({}) == ""
