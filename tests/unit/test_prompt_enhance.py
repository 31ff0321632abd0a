"""Prompts are enhanced by a server's model, by Gemma or by rules, and what comes out passes the linter."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from PIL import Image

import soundstage as ss
from soundstage.cli.enhancing import accepted
from soundstage.cli.program import app
from soundstage.enhancing import systems
from soundstage.enhancing.changes import word_changes
from soundstage.enhancing.enhance import Enhanced, Enhancer, Enhancing, cleaned, faults_of
from soundstage.errors import RequestError, ServerError
from soundstage.prompts.lint import lint, warnings_of
from tests.limits import joined
from tests.tiny_model import write_text_encoder

IDEA = "A fox."
GOOD = (
    "Style: nature film. In a static wide shot at dawn, a fox lifts its paw as the wind howls over the snow."
)
BAD = "The scene opens with a sad fox. 0:03 it runs."
ALL_RULES = "ltx-2.3-distilled"  # a model that is told everything, and need not be here


class _Answers(BaseHTTPRequestHandler):
    """A small OpenAI-compatible server that gives the answers it is told to, one after the other."""

    answers: ClassVar[list[str | int]] = []
    calls: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.calls.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        status = answer if isinstance(answer, int) else 200
        data = json.dumps({"choices": [{"message": {"role": "assistant", "content": answer}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    _Answers.answers, _Answers.calls = [GOOD], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    joined(thread)
    server.server_close()


def by_server(url: str, prompt: str, **judged: Any) -> Any:
    return Enhancer(Enhancing(url=url, writer="wordy", retries=0))(prompt, **judged)


# --- by a server --------------------------------------------------------------------------------------


def test_a_server_is_given_the_rules_and_the_prompt(url: str) -> None:
    result = by_server(url, IDEA)
    assert (result.prompt, result.by, result.before) == (GOOD, "endpoint", IDEA)
    (call,) = _Answers.calls
    system, user = call["messages"]
    assert (call["model"], call["temperature"], call["seed"], call["max_tokens"]) == ("wordy", 0.7, 42, 512)
    assert system == {"role": "system", "content": systems.TEXT}
    assert user["content"] == [{"type": "text", "text": f"The description: {IDEA}"}]
    assert warnings_of(result.findings) == []


def test_an_answer_that_breaks_rules_is_asked_for_again(url: str) -> None:
    _Answers.answers = [BAD, GOOD]
    assert by_server(url, IDEA).prompt == GOOD
    again = _Answers.calls[1]["messages"][1]["content"][0]["text"]
    assert cleaned(BAD) in again
    assert "'0:03' is read as words" in again


def test_plain_faults_of_a_second_answer_are_corrected(url: str) -> None:
    _Answers.answers = [BAD, f"{GOOD} There is no music."]
    result = by_server(url, IDEA)
    assert (result.prompt, result.by, result.negative_prompt) == (GOOD, "endpoint", "music")
    assert "corrected by rules" in result.notices[0]


def test_two_bad_answers_give_way_to_the_rules(url: str) -> None:
    _Answers.answers = [BAD]
    result = by_server(url, IDEA)
    assert result.by == "rules"
    assert "two answers were refused" in result.notices[0]
    assert result.prompt.startswith("Style: cinematic and realistic. A fox.")
    assert warnings_of(lint(result.prompt)) == []


def test_what_is_said_stays_letter_by_letter(url: str) -> None:
    idea = 'A man says: "Never again."'
    _Answers.answers = [GOOD, GOOD, GOOD]
    assert by_server(url, idea).by == "rules"
    assert "letter by letter" in _Answers.calls[1]["messages"][1]["content"][0]["text"]
    spoken = f"{GOOD} A man in a coat says in a low voice: \u201cNever again.\u201d"
    _Answers.answers = [spoken]
    assert by_server(url, idea).prompt.endswith('voice: "Never again."')


def test_a_picture_is_shown_to_who_sees(url: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "first.png")
    _Answers.answers = ["The fox turns its head slowly as the camera stays fixed. The wind howls."]
    result = by_server(url, "It turns.", image=tmp_path / "first.png")
    assert result.by == "endpoint"
    system, user = _Answers.calls[0]["messages"]
    assert "and the picture" in system["content"]
    assert user["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_server_that_is_not_there_is_told(url: str) -> None:
    _Answers.answers = [403]
    with pytest.raises(ServerError, match="wrote nothing: it answers 403"):
        by_server(url, IDEA)


# --- by Gemma -----------------------------------------------------------------------------------------


def write_gemma_that_writes(folder: Path) -> Path:
    """A tiny Gemma 3 of random weights whose tokenizer has the turns of a conversation."""
    folder.mkdir()
    write_text_encoder(folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = data["model"]["vocab"]
    for old, new in (("red", "<start_of_turn>"), ("blue", "<end_of_turn>")):
        vocabulary[new] = vocabulary.pop(old)
        data["added_tokens"].append(
            {"id": vocabulary[new], "content": new, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
        )  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(data))
    return folder


@pytest.mark.slow
def test_gemma_writes_with_its_own_embedding_as_head(tmp_path: Path) -> None:
    """Logits are those of transformers' whole model of the same weights; the same seed, the same words."""
    import torch
    from safetensors.torch import load_file
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    from soundstage.writing.asked import Question
    from soundstage.writing.gemma import GemmaWriter, can_write

    folder = write_gemma_that_writes(tmp_path / "gemma")
    assert can_write(folder)
    writer = GemmaWriter(folder, "cpu", "float32")
    drawn = Question("a ball", "a", max_tokens=24, temperature=1.5, seed=3)
    assert writer.write(drawn) == writer.write(drawn)

    whole = Gemma3ForCausalLM(Gemma3TextConfig.from_json_file(str(folder / "config.json"))).eval()
    stored = load_file(folder / "model.safetensors")
    whole.model.load_state_dict({k.removeprefix("language_model.model."): v for k, v in stored.items()})
    whole.tie_weights()
    ids = torch.tensor([[2, 5, 3, 4, 4, 7, 6, 3, 5, 3]])  # <start_of_turn> user a a ball <end_of_turn> ...
    with torch.no_grad():
        expected = whole(ids).logits
        torch.testing.assert_close(writer._model(ids).logits, expected)


@pytest.mark.slow
def test_words_of_a_random_gemma_give_way_to_the_rules(tmp_path: Path) -> None:
    folder = write_gemma_that_writes(tmp_path / "gemma")
    enhancer = Enhancer(Enhancing(by="gemma", max_tokens=16), folder, "cpu")
    assert enhancer.by == "gemma"
    result = enhancer("A fox runs.")
    assert result.by == "rules"
    assert "two answers were refused" in result.notices[0]


def test_an_encoder_that_only_reads_gives_way_to_the_rules_or_is_refused() -> None:
    result = ss.enhance_prompt("A red ball is rolling.")
    assert (result.by, result.prompt) == ("rules", "A red ball is rolling.")
    assert "reads prompts, but writes none; enhanced by rules" in result.notices[0]
    with pytest.raises(RequestError, match="writes none; give a Gemma 3 12B"):
        ss.enhance_prompt(IDEA, by="gemma")
    with pytest.raises(RequestError, match="there is no /none"):
        ss.enhance_prompt(IDEA, writer="/none")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"by": "endpoint"}, "no url is given"),
        ({"by": "rules", "url": "http://x/v1"}, "asks no server"),
        ({"by": "magic"}, "by is 'magic'"),
        ({"temperature": 3}, "temperature is 3"),
    ],
)
def test_what_does_not_fit_together_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        ss.enhance_prompt(IDEA, **settings)


# --- by rules, and around -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        IDEA,
        BAD.replace("0:03 ", ""),
        "- A kind man is walking on the beach\n- he sits down, no music",
        "He opens a box. He takes a ring. They are angry.",
        'A woman says: "No, not without you."',
    ],
)
def test_the_rules_make_prompts_that_pass(prompt: str) -> None:
    result = Enhancer(Enhancing(by="rules"))(prompt)
    assert warnings_of(result.findings) == []
    assert faults_of(prompt, result.prompt, {}) == []


def test_to_parts_nothing_is_added() -> None:
    result = Enhancer(Enhancing(by="rules"))("A fox is running. | It stops.")
    assert result.prompt == "A fox runs. | It stops."


def test_the_example_in_the_instructions_passes() -> None:
    example = " ".join(systems.TEXT.partition("Answer: ")[2].split())
    assert lint(example) == []


def test_answers_are_cleaned() -> None:
    marked = "```\n**Prompt:** \u201cA fox\u201d \u2014 it runs.\n\n- It stops.\n```"
    assert cleaned(marked) == '"A fox" - it runs. It stops.'
    assert cleaned('Answer: "A fox runs in the snow."') == "A fox runs in the snow."
    assert cleaned("Sure! The video shows a fox that runs.") == "A fox that runs."
    assert cleaned(" \n ") == ""


def test_changes_are_told_by_words() -> None:
    changes = [tuple(change) for change in word_changes("a red ball rolls", "a ball rolls slowly")]
    assert changes == [("same", "a"), ("removed", "red"), ("same", "ball rolls"), ("added", "slowly")]


# --- the command --------------------------------------------------------------------------------------


def run(*words: str, **options: Any) -> Any:
    return CliRunner().invoke(app, words, **options)


def test_the_command_prints_the_prompt_and_shows_what_changed(url: str) -> None:
    told = run("prompt", "enhance", IDEA, "--url", url, "--model", ALL_RULES)
    assert told.stdout == f"{GOOD}\n"
    assert "enhanced by endpoint: [-A fox.-] {+Style: nature film." in " ".join(told.stderr.split())
    quiet = run("prompt", "enhance", IDEA, "--url", url, "-q", "--model", ALL_RULES)
    assert (quiet.stdout, quiet.stderr) == (f"{GOOD}\n", "")


def test_json_has_all_of_it(url: str) -> None:
    told = run("prompt", "enhance", IDEA, IDEA, "--by", "rules", "--json", "--model", ALL_RULES)
    first, second = map(json.loads, told.stdout.splitlines())
    assert first["prompt"] == IDEA
    assert (first["by"], first["notices"], first["where"]) == ("rules", [], "PROMPT 1")
    assert first["enhanced"] == second["enhanced"]
    assert {"kind": "same", "text": "A fox."} in first["changes"]


def test_generate_enhances_with_the_same_words() -> None:
    told = run("generate", "In this video, a red ball rolls.", "--enhance", "rules", "--plan", "--json")
    assert json.loads(told.stdout)["request"]["prompt"] == "A red ball rolls."
    assert "enhanced by rules" in told.stderr
    same = run("generate", "A red ball rolls.", "--plan", "--json")
    assert json.loads(same.stdout)["request"]["prompt"] == "A red ball rolls."
    refused = run("generate", "A ball.", "--enhance", "endpoint", "--plan")
    assert refused.exit_code == 2
    assert "no url is given" in refused.stderr


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "used"), [("n\n", BAD), ("y\n", "better"), ("\n", "better")])
def test_at_a_terminal_it_can_be_refused(monkeypatch: pytest.MonkeyPatch, typed: str, used: str) -> None:
    screen = _Terminal()
    monkeypatch.setattr("sys.stdin", _Terminal(typed))
    monkeypatch.setattr("sys.stderr", screen)
    result = Enhanced("better", BAD, "rules")
    assert accepted(result, ask=True, quiet=False) == used
    assert "use it?" in screen.getvalue()
    assert accepted(result, ask=False, quiet=True) == "better"


def test_rules_show_a_feeling_that_they_take_out_and_end_sentences_of_any_script_once() -> None:
    enhancer = Enhancer(Enhancing(by="rules"))
    shown = "A man walks home. The man lowers the head as a tear runs down the cheek. It rains."
    assert shown in enhancer("A sad man walks home. It rains.").prompt
    assert "Two girls laugh. The two girls " in enhancer("Two happy girls laugh.").prompt
    assert "A man walks. The man clenches" in enhancer("An angry man walks | A dog runs.").prompt
    for prompt in (
        "\u4e00\u53ea\u72d0\u72f8\u3002",
        "\u0915\u0941\u0924\u094d\u0924\u093e\u0964",
    ):
        assert enhancer(prompt).prompt == prompt
