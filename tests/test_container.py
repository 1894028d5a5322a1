"""The image and the compose file, by what they say: an engine to build them is not needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from server.cli import COMMANDS
from server.settings import Settings, unknown_variables
from tests.support.image import Stage, is_ignored, read_patterns, read_stages, said

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PATTERNS = read_patterns((ROOT / ".dockerignore").read_text("utf-8"))
PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"
NOT_SERVED = {"bench*"}
SERVER_PORT = Settings.model_fields["port"].default


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    return read_stages(DOCKERFILE)


@pytest.fixture(scope="module")
def final(stages: list[Stage]) -> Stage:
    return stages[-1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def server(compose: dict[str, Any]) -> dict[str, Any]:
    service: dict[str, Any] = compose["services"]["server"]
    return service


def is_pinned(image: str) -> bool:
    """By a digest, or by a tag that has a version in it."""
    _, _, tag = image.rpartition("/")[2].partition(":")
    return "@sha256:" in image or re.match(r"v?\d+\.\d+", tag) is not None


def environment(stage: Stage) -> dict[str, str]:
    words = (word.partition("=") for env in said(stage, "ENV") for word in env.rest.split())
    return {name: value for name, _, value in words}


# -- the image -----------------------------------------------------------------------------


def test_it_runs_as_a_user_that_is_not_root(final: Stage) -> None:
    uid, _, gid = said(final, "USER")[-1].rest.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    created = next(run.rest for run in said(final, "RUN") if "useradd" in run.rest)
    assert f"--gid {gid} " in created
    assert f"--uid {uid} " in created


def test_signals_reach_the_server(final: Stage, project: dict[str, Any]) -> None:
    """The shell form would put a shell in between, which keeps SIGTERM for itself."""
    (program,) = said(final, "ENTRYPOINT")[-1].exec_form()
    assert program in project["project"]["scripts"]
    assert said(final, "CMD")[-1].exec_form()[0] in COMMANDS
    assert said(final, "STOPSIGNAL")[-1].rest == "SIGTERM"


def test_every_base_is_the_one_that_can_be_chosen(stages: list[Stage]) -> None:
    default = next(arg.rest for arg in said(stages[0], "ARG") if "BASE_IMAGE=" in arg.rest)
    assert is_pinned(default.partition("=")[2])
    built: set[str] = set()
    for stage in stages:
        base, _, name = said(stage, "FROM")[0].rest.partition(" AS ")
        assert base == "${BASE_IMAGE}" or base in built
        built.add(name)


def test_the_image_has_no_build_tools(final: Stage) -> None:
    assert said(final, "FROM")[0].rest == "${BASE_IMAGE}"
    assert not [run.rest for run in said(final, "RUN") if re.search(r"apt-get|\bpip\b", run.rest)]


def test_what_is_copied_is_there(stages: list[Stage]) -> None:
    names = [said(stage, "FROM")[0].rest.partition(" AS ")[2] for stage in stages]
    for copy in (copy for stage in stages for copy in said(stage, "COPY")):
        *sources, _ = [word for word in copy.rest.split() if not word.startswith("--")]
        origin = re.match(r"--from=(\S+)", copy.rest)
        if origin:
            assert origin[1] in names
            continue
        for source in sources:
            assert (ROOT / source).exists()
            assert source == "." or not is_ignored(source, PATTERNS)


def test_what_is_installed_is_in_the_build_context(project: dict[str, Any]) -> None:
    listed = project["tool"]["setuptools"]["packages"]["find"]["include"]
    needed = [pattern.rstrip("*") for pattern in listed if pattern not in NOT_SERVED]
    needed += [project["project"]["readme"], *project["project"]["license-files"]]
    needed += ["pyproject.toml", "setup.py", "model/kernels/native.cpp"]
    needed += ["weights/bundled/model.safetensors", "server/web/docs.html"]
    assert not [path for path in needed if is_ignored(path, PATTERNS)]


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "tests/test_house.py",
        "runs/a/model.safetensors",
        "model/kernels/_native.cpython-311-x86_64-linux-gnu.so",
        "server/commands/__pycache__/serve.cpython-311.pyc",
    ],
)
def test_what_stays_out_of_the_build_context(path: str) -> None:
    assert is_ignored(path, PATTERNS)


def test_the_image_has_the_version_of_the_project(final: Stage, project: dict[str, Any]) -> None:
    assert f"VERSION={project['project']['version']}" in {arg.rest for arg in said(final, "ARG")}


def test_the_environment_is_understood(final: Stage, server: dict[str, Any]) -> None:
    """An unknown variable with our prefix ends the server before it starts."""
    names = [line.partition("=")[0] for line in server["environment"]]
    assert unknown_variables({**environment(final), **dict.fromkeys(names, "")}) == []
    assert environment(final)["GPT2_SERVER_HOST"] == "0.0.0.0"


class Answer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Says nothing."""


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_the_health_check(
    final: Stage, monkeypatch: pytest.MonkeyPatch, status: int, exit_code: int
) -> None:
    python, *rest = said(final, "HEALTHCHECK")[-1].exec_form()
    assert python == "python"
    monkeypatch.setattr(Answer, "status", status)
    with HTTPServer(("localhost", 0), Answer) as httpd:
        Thread(target=httpd.handle_request, daemon=True).start()
        env = {**os.environ, "GPT2_SERVER_PORT": str(httpd.server_port)}
        done = subprocess.run([sys.executable, *rest], env=env, check=False, timeout=30)
    assert done.returncode == exit_code


# -- docker-compose.yml and Prometheus -----------------------------------------------------


def test_foreign_images_are_pinned(compose: dict[str, Any]) -> None:
    foreign = [each["image"] for each in compose["services"].values() if "build" not in each]
    assert foreign
    assert [image for image in foreign if not is_pinned(image)] == []


@pytest.mark.parametrize("image", ["prom/prometheus", "prom/prometheus:latest", "host:5000/a"])
def test_what_is_not_pinned(image: str) -> None:
    assert not is_pinned(image)


def test_compose_builds_this_image(
    final: Stage, server: dict[str, Any], stages: list[Stage]
) -> None:
    assert server["build"]["context"] == "."
    taken = {arg.rest.partition("=")[0] for stage in stages for arg in said(stage, "ARG")}
    assert set(server["build"]["args"]) <= taken
    mounted = {line.partition(":")[2] for line in server["volumes"]}
    assert mounted == {*said(final, "VOLUME")[-1].exec_form()}


def test_every_named_volume_is_declared(compose: dict[str, Any]) -> None:
    lines = [line for each in compose["services"].values() for line in each["volumes"]]
    sources = {line.partition(":")[0] for line in lines}
    assert {name for name in sources if not name.startswith(".")} == {*compose["volumes"]}
    assert all((ROOT / path).exists() for path in sources if path.startswith("."))


def test_services_are_confined(compose: dict[str, Any]) -> None:
    """The server has no authentication, and neither has Prometheus."""
    for service in compose["services"].values():
        assert all(line.startswith("127.0.0.1:") for line in service["ports"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_what_runs_may_finish(server: dict[str, Any]) -> None:
    """Docker kills after ten seconds unless told otherwise."""
    grace_s = int(server["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["shutdown_s"].default


def test_prometheus_finds_the_server(compose: dict[str, Any], final: Stage) -> None:
    prometheus = compose["services"]["prometheus"]
    assert prometheus["depends_on"] == {"server": {"condition": "service_healthy"}}
    config = yaml.safe_load(PROMETHEUS.read_text("utf-8"))
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (static,) = jobs["gpt2-server"]["static_configs"]
    assert static["targets"] == [f"server:{SERVER_PORT}"]
    assert jobs["gpt2-server"].get("metrics_path", "/metrics") == "/metrics"
    assert said(final, "EXPOSE")[-1].rest == str(SERVER_PORT)
    published = [line.rpartition(":")[2] for line in compose["services"]["server"]["ports"]]
    assert published == [str(SERVER_PORT)]


def test_prometheus_is_given_this_file(compose: dict[str, Any]) -> None:
    prometheus = compose["services"]["prometheus"]
    option = next(line for line in prometheus["command"] if line.startswith("--config.file="))
    inside = Path(option.partition("=")[2])
    (folder,) = [line for line in prometheus["volumes"] if line.startswith("./")]
    source, target, mode = folder.split(":")
    assert ROOT / source / inside.relative_to(target) == PROMETHEUS
    assert mode == "ro"


def test_promtool_accepts_the_scrape_config() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's prometheus package) is not installed")
    command = [promtool, "check", "config", str(PROMETHEUS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
