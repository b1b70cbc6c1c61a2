"""The painter against recorded traffic of a real server, and what others build on."""

from __future__ import annotations

import io
import json
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from PIL import Image, ImageChops
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.comfyui.painter import Failure, Manners, Painter, no_memory
from tests.comfyui.painter_client import Client, asked, changed, exchanges, next_of, plain, story, until_end
from tests.comfyui.recordings import Line, Script, classes, scripts
from tests.waiting import eventually

pytestmark = pytest.mark.slow

RUNS = [
    scripts("a_success_cold_mini")[0],
    *scripts("b_success_same_seed_cached_mini"),
    scripts("c_success_new_seed_warm_mini")[0],
]
GRAPH = RUNS[0].graph
CHECKPOINT = "sd15_mini_random.safetensors"
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def painter(tmp_path: Path) -> Iterator[Painter]:
    painter = Painter(tmp_path, Manners(previews=False))
    painter.models["checkpoints"] = [CHECKPOINT, "sd15_random.safetensors"]
    with painter.serving():
        yield painter


@pytest.fixture
def client(painter: Painter) -> Iterator[Client]:
    client = Client(painter)
    with client.http:
        yield client


# What a real server was recorded to do.


def test_cold_cached_and_warm_runs_say_what_they_were_recorded_to_say(painter: Painter, client: Client) -> None:
    names = []
    for number, script in enumerate(RUNS):
        ran = client.run(script.graph)
        heard = [json.loads(frame) for _, frame in script.frames if isinstance(frame, str)]
        assert story(ran.frames, ran.entry["prompt"][1]) == story(heard, script.prompt_id)
        if script.history is not None:
            told = {name: each for name, each in script.history.items() if name != "prompt"}
            mine = {name: ran.entry[name] for name in told}
            assert plain(mine, ran.entry["prompt"][1]) == plain(told, script.prompt_id)
        names += ran.names
        if number == 1:
            (painter.folder / "output" / names[0]).unlink()
    assert names == ["ComfyUI_00001_.png"] * 4  # the last one is new: the first was taken away
    assert painter.files() == names[:1]


@pytest.mark.parametrize(
    ("sent", "told"),
    [pytest.param(*each, id=str(each[0]["id"])) for each in exchanges("d_invalid_prompts") if each[0]["id"] <= 16],
)
def test_what_is_refused_is_refused_in_the_same_words(client: Client, sent: Line, told: Line) -> None:
    answer = asked(client, sent)
    assert answer.status_code == told["status"]
    if "json" not in told:
        assert answer.text == told["text"]
        return
    assert answer.json().get("error") == told["json"].get("error")
    assert said_of_nodes(answer.json()["node_errors"]) == said_of_nodes(told["json"]["node_errors"])


def said_of_nodes(node_errors: dict[str, Any]) -> dict[str, Any]:
    """Without what classes say of their inputs beyond the type, and lines of code."""
    found = json.loads(json.dumps(node_errors))
    for error in (error for each in found.values() for error in each["errors"]):
        error["extra_info"].pop("traceback", None)
        if "input_config" in error["extra_info"]:
            error["extra_info"]["input_config"] = error["extra_info"]["input_config"][0]
    return dict(found)


def test_of_two_outputs_the_good_one_runs(client: Client) -> None:
    sent = next(sent for sent, _ in exchanges("d_invalid_prompts") if sent["id"] == 16)
    ran = client.run(sent["json"]["prompt"])
    assert (list(ran.entry["outputs"]), ran.entry["prompt"][4]) == (["9"], ["9"])


def test_every_other_answer_has_the_recorded_status_and_shape(painter: Painter, client: Client) -> None:
    found = exchanges("j_endpoints")
    folder = painter.folder / "output" / "sub" / "dir"
    folder.mkdir(parents=True)
    (folder / "job7_00004_.png").touch()
    assert client.run(found[0][0]["json"]["prompt"]).names[-1].startswith("ComfyUI_temp_")
    assert painter.files()[1:] == ["sub/dir/job7_00005_.png", "sub/dir/job7_00006_.png"]
    shapes = {}
    for sent, told in found[1:-1]:
        if "type=temp" in sent["path"] or "multipart" in sent:
            continue
        answer = asked(client, sent)
        assert (sent["path"], answer.status_code) == (sent["path"], told["status"])
        if isinstance(told.get("json"), dict | list):
            shapes[sent["path"]] = (answer.json(), told["json"])
    for path in ("/features", "/models", "/models/checkpoints", "/prompt", "/queue", "/object_info/NoSuchNode"):
        assert shapes[path][0] == shapes[path][1]
    mine, theirs = shapes["/system_stats"]
    assert [mine["system"].keys(), mine["devices"][0].keys()] == [
        theirs["system"].keys(),
        theirs["devices"][0].keys(),
    ]


def test_its_classes_say_what_real_ones_say(client: Client) -> None:
    mine = client.http.get("/object_info").json()
    for name, theirs in classes().items():
        assert {*mine[name]} | {"output_tooltips"} >= {*theirs}
        assert mine[name]["input_order"] == theirs["input_order"]
        assert (mine[name]["output"], mine[name]["output_node"]) == (theirs["output"], theirs["output_node"])
        for field, said in theirs["input"]["required"].items():
            kind, options = (*mine[name]["input"]["required"][field], {})[:2]
            assert isinstance(kind, list) == isinstance(said[0], list)
            assert {each: options.get(each) for each in ("min", "max")} == {
                each: said[1].get(each) for each in ("min", "max")
            }


def test_the_queue_keeps_the_recorded_order(painter: Painter, client: Client) -> None:
    painter.manners.hold = 1
    first = client.post(GRAPH)
    others = [client.post(GRAPH, **more) for more in ({}, {"front": True}, {"number": -100})]
    queue = client.http.get("/queue").json()
    assert [entry[:2] for entry in queue["queue_running"]] == [[0, first]]
    assert [entry[:2] for entry in queue["queue_pending"]] == [[-100.0, others[2]], [-2, others[1]], [1, others[0]]]
    client.http.post("/queue", json={"delete": [others[1], first, "nobody"]})
    assert [job.prompt_id for job in painter.pending] == [others[2], others[0]]
    client.http.post("/queue", json={"clear": True})
    assert (painter.pending, painter.running is not None) == ([], True)


# What goes wrong.


def test_an_interrupt_stops_the_prompt_that_it_names(painter: Painter, client: Client) -> None:
    painter.manners.hold = 2
    with client.listening() as socket:
        first, second = client.post(changed(GRAPH, "3", seed=5)), client.post(GRAPH)
        heard = [next_of(socket)]
        while heard[-1]["type"] != "progress":
            heard.append(next_of(socket))
        for wrong in ("nobody", second):
            assert client.http.post("/interrupt", json={"prompt_id": wrong}).status_code == 200
        assert painter.running is not None
        assert not painter.running.interrupted
        client.http.post("/interrupt", json={"prompt_id": first})
        frames = list(until_end(socket, first))
        client.http.post("/interrupt")
        assert "execution_interrupted" in {frame["type"] for frame in until_end(socket, second)}
    (said,) = [frame["data"] for frame in frames if frame["type"] == "execution_interrupted"]
    said.pop("timestamp")
    executed = ["4", "5", "7", "6"]
    assert said == {"prompt_id": first, "node_id": "3", "node_type": "KSampler", "executed": executed}
    entry = client.http.get(f"/history/{first}").json()[first]
    assert (entry["outputs"], entry["status"]["status_str"]) == ({}, "error")


def test_a_cancel_is_known_where_that_is_switched_on(painter: Painter, client: Client) -> None:
    painter.manners.hold = 1
    ids = [client.post(GRAPH), client.post(GRAPH)]
    assert client.http.post(f"/api/jobs/{ids[1]}/cancel").status_code == 404
    painter.manners.cancels_jobs = True
    assert client.http.post(f"/api/jobs/{ids[1]}/cancel").status_code == 200
    assert painter.pending == []


ERRORS = [script for script in scripts("e_execution_error") if script.says("execution_error")]


@pytest.mark.parametrize("script", ERRORS, ids=[script.note for script in ERRORS])
def test_an_error_has_the_recorded_fields(painter: Painter, client: Client, script: Script) -> None:
    heard = [json.loads(frame) for _, frame in script.frames if isinstance(frame, str)]
    (theirs,) = [frame["data"] for frame in heard if frame["type"] == "execution_error"]
    text = theirs["exception_message"].removesuffix("\n")
    painter.manners.fails[theirs["node_type"]] = Failure(theirs["exception_type"], text)
    painter.models["checkpoints"].append("corrupt.safetensors")
    ran = client.run(script.graph)
    (mine,) = ran.said("execution_error")
    assert list(mine) == list(theirs)
    for field in ("node_id", "node_type", "exception_message", "exception_type"):
        assert mine[field] == theirs[field]
    assert [frame["type"] for frame in ran.frames[-3:]] == ["execution_error", "status", "executing"]
    assert ran.entry["status"]["messages"][-1] == ["execution_error", mine]
    (there,) = [frame["data"]["nodes"] for frame in heard if frame["type"] == "execution_cached"]
    order = [each["node"] for each in ran.said("executing") if each["node"] not in there]
    assert order == [frame["data"]["node"] for frame in heard if frame["type"] == "executing"]


def test_memory_is_short_so_often_or_above_so_many_pixels(painter: Painter, client: Client) -> None:
    painter.manners.fails = {"KSampler": no_memory(times=1), "VAEDecode": no_memory(above=64 * 64)}
    (said,) = client.run(GRAPH).said("execution_error")
    assert (said["node_type"], said["exception_type"]) == ("KSampler", "torch.OutOfMemoryError")
    assert "Allocation on device" in said["exception_message"]
    assert client.run(GRAPH).names
    assert client.run(changed(GRAPH, "5", width=128)).said("execution_error")[0]["node_type"] == "VAEDecode"


async def test_one_that_hangs_still_answers(painter: Painter, client: Client) -> None:
    painter.manners.fails["VAEDecode"] = Failure(hang=True)
    prompt_id = client.post(GRAPH)
    await eventually(lambda: painter.running is not None and painter.running.node == "8")
    client.http.post("/interrupt", json={"prompt_id": prompt_id})
    assert client.http.get("/queue").json()["queue_running"][0][1] == prompt_id


def test_files_stay_in_their_folders(painter: Painter, client: Client) -> None:
    (said,) = client.run(changed(GRAPH, "9", filename_prefix="../../x")).said("execution_error")
    assert (said["node_type"], "not allowed" in said["exception_message"]) == ("SaveImage", True)
    (painter.folder / "secret.png").write_bytes(b"x")
    for name, status in (("../secret.png", 400), ("/secret.png", 400), ("secret.png", 404)):
        assert client.http.get("/view", params={"filename": name}).status_code == status
    wrong = client.http.post("/upload/image", files={"image": ("x.png", b"x")}, data={"subfolder": "../.."})
    assert wrong.status_code == 400
    assert painter.files() == []


def test_a_header_may_be_needed(painter: Painter, client: Client) -> None:
    painter.manners.header = ("x-key", "right")
    assert client.http.get("/queue").status_code == 401
    assert client.http.get("/queue", headers={"X-Key": "right"}).status_code == 200


# Who hears what.


async def test_when_the_older_of_two_connections_closes_both_are_forgotten(client: Client, painter: Painter) -> None:
    with ExitStack() as older:
        older.enter_context(client.listening())
        with client.listening() as newer:
            older.close()
            await eventually(lambda: painter.sockets() == ())
            prompt_id = client.post(GRAPH)
            await eventually(lambda: prompt_id in painter.history)
            with pytest.raises(TimeoutError):
                newer.recv(0.2)


def test_who_comes_late_hears_the_node_and_those_without_an_id_only_progress(painter: Painter, client: Client) -> None:
    painter.manners.hold, painter.manners.held = 2, Event()
    with client.listening("another") as other:
        prompt_id = client.post(GRAPH, client_id=None)
        heard = {"status"}
        while heard != {"status", "progress_state", "progress"}:
            heard.add(next_of(other)["type"])
        client.http.post("/interrupt", json={"prompt_id": prompt_id})
        while (frame := next_of(other))["type"] != "execution_interrupted":
            assert frame["type"] in heard
        ours = client.post(changed(GRAPH, "3", seed=3))
        while next_of(other)["type"] != "progress_state" and painter.running is None:
            pass
        with client.listening() as socket:
            while painter.running is not None and painter.running.node != "3":
                next_of(socket)
        with client.listening() as socket:
            assert next_of(socket) == {"type": "executing", "data": {"node": "3"}}
            painter.manners.held.set()
            assert list(until_end(socket, ours))[-3]["type"] == "execution_success"


def test_previews_tell_their_node_to_those_who_asked(painter: Painter, client: Client) -> None:
    painter.manners = Manners(preview_every=2)
    found = [frame for frame in client.run(GRAPH).frames if isinstance(frame, bytes)]
    assert [struct.unpack_from(">II", frame) for frame in found] == [(1, 1), (1, 1)]
    assert Image.open(io.BytesIO(found[0][8:])).format == "JPEG"
    flags = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
    ran = client.run(changed(GRAPH, "3", seed=2), flags)
    assert ran.said("feature_flags")[0]["supports_preview_metadata"]
    event, length = struct.unpack_from(">II", frame := next(each for each in ran.frames if isinstance(each, bytes)))
    said = json.loads(frame[8 : 8 + length])
    assert (event, said["node_id"], said["prompt_id"]) == (4, "3", ran.entry["prompt"][1])


# What is drawn.


def test_a_picture_depends_on_all_that_was_asked(painter: Painter, client: Client) -> None:
    painter.manners.caches = False
    painter.models["loras"] = ["ink.safetensors"]
    lora = {"lora_name": "ink.safetensors", "model": ["4", 0], "clip": ["4", 1], "strength_clip": 1.0}
    lorn = changed(GRAPH | {"10": {"class_type": "LoraLoader", "inputs": lora}}, "3", model=["10", 0])
    with_lora = [changed(lorn, "10", strength_model=weight) for weight in (0.5, 0.7)]
    said = ({"seed": 2}, {"steps": 5}, {"cfg": 6.5}, {"sampler_name": "ddim"}, {"scheduler": "karras"})
    graphs = [GRAPH, changed(GRAPH, "6", text="a fox"), changed(GRAPH, "7", text="blurry"), *with_lora]
    drawn = [client.draw(graph) for graph in (*graphs, *(changed(GRAPH, "3", **each) for each in said))]
    assert len({image.tobytes() for image in drawn}) == len(drawn)
    assert client.draw(GRAPH).tobytes() == drawn[0].tobytes()


def begun_with(client: Client, denoise: float, *, masked: bool) -> Image.Image:
    """What becomes of a red picture; the mask is white in its right half."""
    client.upload("red.png", Image.new("RGB", (64, 64), RED))
    mask = Image.new("RGB", (64, 64))
    mask.paste((255, 255, 255), (32, 0, 64, 64))
    client.upload("mask.png", mask)
    graph = GRAPH | {
        "11": {"class_type": "LoadImage", "inputs": {"image": "red.png"}},
        "13": {"class_type": "VAEEncode", "inputs": {"pixels": ["11", 0], "vae": ["4", 2]}},
        "18": {"class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"}},
        "19": {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["13", 0], "mask": ["18", 0]}},
    }
    return client.draw(changed(graph, "3", denoise=denoise, latent_image=["19" if masked else "13", 0]))


def test_where_the_mask_is_black_nothing_changes(client: Client) -> None:
    drawn = begun_with(client, 0.8, masked=True)
    red = Image.new("RGB", (64, 64), RED)
    assert ImageChops.difference(drawn, red).getbbox() == (32, 0, 64, 64)


def test_what_was_begun_with_shows_through(client: Client) -> None:
    red = Image.new("RGB", (64, 64), RED)
    far = [
        sum(ImageChops.difference(begun_with(client, denoise, masked=False), red).convert("L").tobytes())
        for denoise in (0.0, 0.2, 0.6)
    ]
    assert far[0] == 0 < far[1] < far[2]


def test_only_what_has_changed_runs_again(painter: Painter, client: Client) -> None:
    client.run(GRAPH)
    ran = client.run(
        changed(GRAPH, "9", filename_prefix="mine/of"), extra_data={"extra_pnginfo": {"workflow": {"x": 1}}}
    )
    assert [each["node"] for each in ran.said("executing")] == ["9", None]
    assert painter.files() == ["ComfyUI_00001_.png", "mine/of_00001_.png"]
    texts = client.picture(ran).text  # type: ignore[attr-defined]
    assert (json.loads(texts["prompt"])["3"], json.loads(texts["workflow"])) == (GRAPH["3"], {"x": 1})
    # It remembers what the prompt before left, not those before that.
    other = client.run(changed(GRAPH, "3", seed=2))
    assert (other.said("execution_cached")[0]["nodes"], other.names) == (["4", "5", "6", "7"], ["ComfyUI_00002_.png"])
    assert client.run(GRAPH).names == ["ComfyUI_00003_.png"]


def test_a_file_that_was_uploaded_anew_is_loaded_anew(client: Client) -> None:
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "it.png"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    for colour in (RED, BLUE):
        client.upload("it.png", Image.new("RGB", (8, 8), colour))
        assert client.picture(client.run(graph)).getpixel((0, 0)) == colour


async def test_memory_is_freed_when_the_prompt_has_ended(painter: Painter, client: Client) -> None:
    painter.manners.hold = 1
    prompt_id = client.post(GRAPH)
    await eventually(lambda: painter.running is not None and painter.running.node == "3")
    assert client.http.post("/free", json={"unload_models": True, "free_memory": True}).status_code == 200
    assert (painter.freed, painter.emptied) == ([{"unload_models": True, "free_memory": True}], 0)
    painter.manners.hold = None
    await eventually(lambda: prompt_id in painter.history and painter.emptied == 1)
    assert client.run(GRAPH).said("execution_cached")[0]["nodes"] == []


def test_classes_of_extensions_can_be_had_and_left_out(painter: Painter, client: Client) -> None:
    info = {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"], "output_node": False}
    painter.manners.extra_classes = {"Polish": info}
    graph = changed({**GRAPH, "10": {"class_type": "Polish", "inputs": {"image": ["8", 0]}}}, "9", images=["10", 0])
    assert client.run(graph).names == ["ComfyUI_00001_.png"]
    painter.manners.without = frozenset({"Polish"})
    assert client.http.post("/prompt", json={"prompt": graph}).json()["error"]["type"] == "invalid_prompt"


def test_clips_are_written(painter: Painter, client: Client) -> None:
    film = {"width": 64, "height": 48, "length": 9, "batch_size": 1}
    webp = {"filename_prefix": "moving", "fps": 8.0, "lossless": False, "quality": 60, "method": "fastest"}
    graph = changed(GRAPH, "3", latent_image=["5", 0]) | {
        "5": {"class_type": "EmptyHunyuanLatentVideo", "inputs": film},
        "10": {"class_type": "CreateVideo", "inputs": {"images": ["8", 0], "fps": 8.0}},
        "11": {"class_type": "ImageFromBatch", "inputs": {"image": ["8", 0], "batch_index": 3, "length": 1}},
        "12": {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["8", 0], **webp}},
        "13": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["10", 0], "filename_prefix": "clip", "format": "mp4", "codec": "h264"},
        },
    }
    ran = client.run(changed(graph, "9", images=["11", 0]))
    assert painter.files() == ["ComfyUI_00001_.png", "clip_00001_.mp4", "moving_00001_.webp"]
    assert ran.entry["outputs"]["13"]["animated"] == [True]
    with Image.open(painter.folder / "output" / "moving_00001_.webp") as image:
        assert (image.n_frames, image.size) == (9, (64, 48))  # type: ignore[attr-defined]


# How it lives and dies.


def test_another_one_on_the_same_port_has_forgotten_everything(tmp_path: Path) -> None:
    with Painter(tmp_path).serving() as first, connect(f"{first.url.replace('http', 'ws')}/ws", proxy=None) as socket:
        first.foreign()
        while next_of(socket)["data"].get("status") != {"exec_info": {"queue_remaining": 0}} or not first.history:
            pass
        first.stop()
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(5)
        assert closed.value.rcvd is None  # broken, not closed
        with Painter(tmp_path, port=int(first.url.rpartition(":")[2])).serving() as second:
            assert httpx.get(f"{second.url}/history", trust_env=False).json() == {}
            assert second.files() == ["theirs_00001_.png"]


def test_it_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.touch()
    command = [sys.executable, "-m", "tests.comfyui.painter", "--port", "0", "--step", "0", "--hold", "1"]
    command += ["--folder", str(tmp_path), "--held", str(held), "--model", f"checkpoints={CHECKPOINT}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(base_url=url, trust_env=False, timeout=5) as http:
            prompt_id = http.post("/prompt", json={"prompt": GRAPH}).json()["prompt_id"]
            assert http.get("/prompt").json()["exec_info"]["queue_remaining"] == 1
            held.unlink()
            while prompt_id not in http.get("/history").json():
                pass
            process.send_signal(signal.SIGKILL)
            assert process.wait(5) == -signal.SIGKILL
            with pytest.raises(httpx.TransportError):
                http.get("/queue")
    with suppress(ProcessLookupError):
        process.kill()
