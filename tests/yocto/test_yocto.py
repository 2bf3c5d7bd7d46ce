"""The BitBake layer, in tasks that the genuine modules of BitBake parse and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.support import CAS, Cas, objects_of

pytestmark = pytest.mark.per_user

PROJECT = Path(__file__).parents[2]
LAYERS = f"{PROJECT}/tests/yocto/bitbake/meta {PROJECT}/tools/yocto/meta-cas"
REFUSING = (
    "unshare", "--user", "--map-root-user", "sh", "-euc",
    "echo 1 >/proc/sys/user/max_user_namespaces; "
    'exec unshare --user --map-user=4242 --map-group=4242 "$@"', "-",
)  # fmt: skip
"""Runs a command where no namespace can be made."""


@dataclass(frozen=True)
class Build:
    """A build directory, whose store is that of `cas`."""

    path: Path
    cas: Cas

    def recipe(self, name: str, text: str = "", **files: str) -> None:
        """Write a recipe that makes files in its sysroot, given by path with `__` for slashes."""
        made = "".join(
            f"mkdir -p $(dirname ${{D}}/{path}); printf '%s' '{content}' > ${{D}}/{path}\n"
            f"chmod {755 if '/bin/' in path else 644} ${{D}}/{path}\n"
            for path, content in files.items()
        )
        function = f"do_compile() {{\n{made}:\n}}\n" if files else ""
        (self.path / "recipes").mkdir(exist_ok=True)
        (self.path / f"recipes/{name}.bb").write_text(f"{function}{text}\n")

    def configure(self, text: str = 'INHERIT += "cas-sysroot"') -> None:
        """Write the configuration."""
        (self.path / "conf").mkdir(exist_ok=True)
        layers = f'BBPATH = "${{TOPDIR}}"\nBBLAYERS = "{LAYERS}"\n'
        (self.path / "conf/bblayers.conf").write_text(layers)
        own = f'CAS_COMMAND = "{CAS}"\nCAS_STORE = "{self.cas.store}"\n'
        (self.path / "conf/local.conf").write_text(f"{own}{text}\n")

    def python(self, *arguments: str, code: int = 0, wrapper: tuple[str, ...] = ()) -> str:
        """Run the stand-in for BitBake's worker; return its output."""
        done = subprocess.run(
            [*wrapper, sys.executable, PROJECT / "tests/yocto/bitbake/run.py", *arguments],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": f"{PROJECT}/tests/yocto/bitbake/lib"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def task(
        self, recipe: str, task: str, *depends: str, code: int = 0, wrapper: tuple[str, ...] = ()
    ) -> str:
        """Run a task; return its log, which BitBake removes if it is empty."""
        self.python("task", recipe, f"do_{task}", *depends, code=code, wrapper=wrapper)
        log = self.work(recipe) / f"temp/log.do_{task}"
        return log.read_text() if log.exists() else ""

    def populate(self, *recipes: str) -> None:
        """Run the tasks that make recipes' sysroots."""
        for recipe in recipes:
            self.task(recipe, "compile")
            self.task(recipe, "populate_sysroot")

    def work(self, recipe: str) -> Path:
        """Return a recipe's work directory."""
        return self.path / "tmp/work" / recipe

    def logs(self) -> str:
        """Return all logs."""
        logs = sorted(self.path.glob("tmp/work/*/temp/log.do_*.*"))
        return "\n".join(f"{path}:\n{path.read_text()}" for path in logs)


@pytest.fixture
def build(tmp_path: Path, cas: Cas) -> Build:
    made = Build(tmp_path / "build", cas)
    made.path.mkdir()
    made.configure()
    made.recipe("zlib", **{"usr/include/zlib.h": "zlib"})
    made.recipe("png", **{"usr/include/png.h": "png"})
    made.recipe("late", **{"usr/include/late.h": "late"})
    return made


def app(build: Build, script: str, text: str = "") -> None:
    """Write a recipe whose do_configure, do_compile and do_package run a script."""
    tasks = "".join(
        f"do_{task}() {{\ncd ${{RECIPE_SYSROOT}}\n{script}\n}}\n"
        for task in ("configure", "compile", "package")
    )
    build.recipe("app", tasks + text)


def test_layer_changes_no_hash(build: Build) -> None:
    app(build, "true")
    recipes = ("app", "zlib")
    ours = json.loads(build.python("hashes", *recipes))
    build.configure("")
    assert json.loads(build.python("hashes", *recipes)) == ours
    assert len(ours) == 2 * 8


def test_sysroot_is_put_after_its_task(build: Build) -> None:
    build.populate("zlib", "png")
    listed = [one["id"] for one in build.cas.json("ls")]
    assert [name.rsplit(":", 1)[0] for name in listed] == [
        "png:core2-64:do_populate_sysroot", "zlib:core2-64:do_populate_sysroot",
    ]  # fmt: skip
    ids = {path.read_text().strip() for path in (build.path / "tmp/cas-ids").iterdir()}
    assert ids == set(listed)
    assert build.cas("files", "zlib").stdout.split()[-1] == "usr/include/zlib.h"
    before = objects_of(build.cas.store)
    build.populate("zlib")
    assert objects_of(build.cas.store) == before


def test_sysroot_is_mounted_for_its_task_only(build: Build) -> None:
    build.populate("zlib", "png", "late")
    app(
        build, "cat usr/include/*.h >> ${WORKDIR}/seen; ! touch usr/include/new; ! rm usr/include/*"
    )
    build.task("app", "prepare_recipe_sysroot", "zlib", "zlib>png")
    build.task("app", "configure", "zlib", "zlib>png")
    build.task("app", "compile")
    assert (build.work("app") / "seen").read_text() == "pngzlib" * 2
    build.task("app", "package", "late")  # it has the network, and one dependency more
    build.task("app", "compile")
    assert (build.work("app") / "seen").read_text() == "pngzlib" * 2 + "latepngzlib" * 2
    assert list((build.work("app") / "recipe-sysroot").iterdir()) == []
    links = [path for path in build.work("app").rglob("*") if path.lstat().st_nlink > 1]
    assert [path for path in links if not path.is_dir()] == []
    build.task("app", "clean")
    assert not (build.work("app") / "cas-sysroots").exists()


def test_native_sysroot_has_tools_without_their_dependencies(build: Build) -> None:
    native = 'PACKAGE_ARCH = "${BUILD_ARCH}"'
    build.recipe("tool-native", native, **{"usr/bin/tool": "#!/bin/sh\necho tool"})
    build.recipe("hidden", **{"usr/include/hidden.h": "hidden"})
    build.populate("zlib", "tool-native", "hidden")
    tool = "${RECIPE_SYSROOT_NATIVE}/usr/bin/tool"
    app(build, f"ls usr/include > ${{WORKDIR}}/seen; {tool} >> ${{WORKDIR}}/seen")
    depends = ("zlib", "tool-native", "tool-native>hidden")
    build.task("app", "prepare_recipe_sysroot", *depends)
    build.task("app", "configure", *depends)
    assert (build.work("app") / "seen").read_text() == "zlib.h\ntool\n"


def test_relocated_files_and_script_results_belong_to_the_recipe(build: Build) -> None:
    build.recipe("zlib", **{
        "usr/bin/zlib-config": "#!/bin/sh\necho FIXMESTAGINGDIRTARGET",
        "fixmepath": "sysroot-destdir/usr/bin/zlib-config\n", "fixmepath.cmd": "a command",
    })  # fmt: skip
    build.recipe("sdk", **{
        "opt/sdk/usr/bin/postinst-sdk": "#!/bin/sh\ntouch $(dirname $0)/made-by-sdk",
    })  # fmt: skip
    script = "#!/bin/sh\ncd $(dirname $0)/..; ls include > made-by-script"
    build.recipe("script", **{"usr/bin/postinst-script": script, "usr/include/script.h": ""})
    build.recipe("late", **{
        "usr/bin/late-config": "#!/bin/sh\necho late FIXMESTAGINGDIRTARGET",
        "fixmepath": "sysroot-destdir/usr/bin/late-config\n", "usr/lib/late": "",
    })  # fmt: skip
    build.populate("zlib", "script", "sdk", "late")
    tools = "for tool in usr/bin/*-config; do $tool >> ${WORKDIR}/seen; done"
    app(build, f"{tools}; test -s usr/made-by-script; test -e opt/sdk/usr/bin/made-by-sdk")
    build.task("app", "prepare_recipe_sysroot", "zlib", "script", "sdk")
    build.task("app", "configure", "zlib", "script", "sdk")
    sysroot = build.work("app") / "recipe-sysroot"
    assert (build.work("app") / "seen").read_text() == f"{sysroot}\n"
    build.task("app", "package", "late")
    assert (
        build.work("app") / "seen"
    ).read_text() == f"{sysroot}\n" + f"late {sysroot}\n{sysroot}\n"
    build.recipe(
        "other", "do_configure() {\n${RECIPE_SYSROOT}/usr/bin/zlib-config > ${WORKDIR}/seen\n}"
    )
    build.task("other", "prepare_recipe_sysroot", "zlib")
    build.task("other", "configure", "zlib")
    assert (build.work("other") / "seen").read_text() == f"{build.work('other')}/recipe-sysroot\n"
    assert build.cas("verify").stdout == "no faults found\n"
    assert "fixmepath.cmd" not in build.cas("files", "zlib").stdout


def test_artifacts_of_a_running_task_are_not_collected(build: Build) -> None:
    build.populate("zlib", "png")
    collect = f"{CAS} --store {build.cas.store} gc --max-age 0s --grace 0s > ${{WORKDIR}}/gc"
    app(build, f"{collect}; cat usr/include/zlib.h")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.task("app", "configure", "zlib")
    assert [one["id"].split(":")[0] for one in build.cas.json("ls")] == ["zlib"]


def test_artifact_collected_between_tasks_is_put_again(build: Build) -> None:
    build.populate("zlib")
    app(build, "cat usr/include/zlib.h > ${WORKDIR}/seen")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.cas("gc", "--max-age", "0s", "--grace", "0s")
    assert build.cas.json("ls") == []
    build.task("app", "compile")
    assert (build.work("app") / "seen").read_text() == "zlib"
    assert len(build.cas.json("ls")) == 1


def test_deleted_store_is_created_again(build: Build) -> None:
    build.populate("zlib")
    app(build, "cat usr/include/zlib.h > ${WORKDIR}/seen")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    shutil.rmtree(build.cas.store)
    build.task("app", "compile")
    assert (build.work("app") / "seen").read_text() == "zlib"


def test_changed_component_is_not_put_under_its_old_hash(build: Build) -> None:
    build.populate("zlib")
    app(build, "test -e usr && echo mounted > ${WORKDIR}/seen || echo nothing > ${WORKDIR}/seen")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.recipe("zlib", **{"usr/include/zlib.h": "newer"})
    build.populate("zlib")
    ids = "".join(path.read_text() for path in (build.path / "tmp/cas-ids").iterdir())
    build.cas("gc", "--keep-from", "-", "--grace", "0s", input=ids)
    log = build.task("app", "compile")  # as a task does that does not wait for the preparing one
    assert "they will be prepared again" in log
    assert (build.work("app") / "seen").read_text() == "nothing\n"
    assert [f"{one['id']}\n" for one in build.cas.json("ls")] == [ids]


def test_rebuilt_component_of_the_same_hash_is_used(build: Build) -> None:
    build.recipe("zlib", "do_compile() {\nmkdir -p ${D}\ncp ${TOPDIR}/content ${D}/\n}")
    for content in ("old", "new"):
        (build.path / "content").write_text(content)
        build.populate("zlib")
        app(build, "cat content > ${WORKDIR}/seen")
        build.task("app", "prepare_recipe_sysroot", "zlib")
        build.task("app", "configure", "zlib")
        assert (build.work("app") / "seen").read_text() == content
    assert len(build.cas.json("ls")) == 1


def test_changed_dependency_of_a_later_task_leaves_nothing_behind(
    build: Build,
) -> None:
    def populate(text: str) -> None:
        build.recipe("late", **{
            "usr/bin/late": f"#!/bin/sh\necho {text} of FIXMESTAGINGDIRTARGET",
            "fixmepath": "sysroot-destdir/usr/bin/late\n",
        })  # fmt: skip
        build.populate("late")

    build.recipe("later", **{"usr/bin/late": "#!/bin/sh\necho another"})
    build.populate("zlib", "later")
    app(build, "cat usr/include/zlib.h; usr/bin/late > ${WORKDIR}/seen")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    sysroot = build.work("app") / "recipe-sysroot"
    for text in ("old", "new"):
        populate(text)
        build.task("app", "package", "late")
        assert (build.work("app") / "seen").read_text() == f"{text} of {sysroot}\n"
    build.task("app", "package", "later")
    assert (build.work("app") / "seen").read_text() == "another\n"


OWN = """
do_prepare_recipe_sysroot[postfuncs] += "own"
own() {
    mkdir -p ${RECIPE_SYSROOT}/etc
    echo user >> ${RECIPE_SYSROOT}/etc/passwd
}
"""


def test_files_of_later_functions_survive_a_change(build: Build) -> None:
    """As that of useradd: it does not run again when a dependency of a later task changes."""
    build.populate("zlib", "late")
    app(build, "cat etc/passwd > ${WORKDIR}/seen", OWN)
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.task("app", "package", "late")
    build.recipe("late", **{"usr/include/late.h": "newer"})
    build.populate("late")
    build.task("app", "package", "late")
    assert (build.work("app") / "seen").read_text() == "user\n"


def test_files_of_later_functions_survive_a_change_of_the_sysroot(build: Build) -> None:
    build.populate("zlib", "late")
    app(build, "cat etc/passwd usr/include/zlib.h > ${WORKDIR}/seen", OWN)
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.task("app", "package", "zlib", "late")
    build.recipe("zlib", **{"usr/include/zlib.h": "newer"})
    build.populate("zlib")
    build.task("app", "package", "zlib", "late")
    assert (build.work("app") / "seen").read_text() == "user\nnewer"


def test_unpreparable_sysroot_fails_the_task(build: Build) -> None:
    build.recipe("bad", **{"usr/bin/postinst-bad": "#!/nonexistent"})
    build.populate("bad")
    app(build, "true")
    log = build.task("app", "prepare_recipe_sysroot", "bad", code=1)
    assert "its sysroots cannot be prepared" in log


def test_id_list_may_be_deleted(build: Build) -> None:
    build.populate("zlib", "png")
    app(build, "cat usr/include/zlib.h > ${WORKDIR}/seen")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    shutil.rmtree(build.path / "tmp/cas-ids")
    build.populate("png")
    ids = "".join(path.read_text() for path in (build.path / "tmp/cas-ids").iterdir())
    build.cas("gc", "--keep-from", "-", "--grace", "0s", input=ids)
    build.task("app", "compile")
    assert (build.work("app") / "seen").read_text() == "zlib"


def test_preparing_keeps_the_sysroot_of_a_running_task(build: Build) -> None:
    build.populate("zlib", "late")
    wait = "touch ${TOPDIR}/waiting; until [ -e ${TOPDIR}/go ]; do sleep 0.05; done"
    app(build, "cat usr/include/zlib.h", f"""
        do_patch[depends] = "late:do_populate_sysroot"
        do_patch() {{
            {wait}
            cat ${{RECIPE_SYSROOT}}/usr/include/late.h > ${{WORKDIR}}/seen
        }}
    """.replace("\n        ", "\n"))  # fmt: skip
    with ThreadPoolExecutor() as executor:
        patching = executor.submit(build.task, "app", "patch", "late")
        while not (build.path / "waiting").exists():
            assert not patching.done(), patching.result()
        build.task("app", "prepare_recipe_sysroot", "zlib")
        build.task("app", "configure", "zlib")
        (build.path / "go").touch()
        patching.result()
    assert (build.work("app") / "seen").read_text() == "late"


def test_live_ids_keep_artifacts_of_the_build(build: Build) -> None:
    build.populate("zlib", "png")
    build.recipe("png", **{"usr/include/png.h": "newer"})
    build.populate("png")
    assert len(build.cas.json("ls")) == 3
    ids = "".join(path.read_text() for path in (build.path / "tmp/cas-ids").iterdir())
    build.cas("gc", "--keep-from", "-", "--grace", "0s", input=ids)
    assert [one["id"].split(":")[0] for one in build.cas.json("ls")] == ["png", "zlib"]


def test_build_pushes_at_its_end_and_pulls_when_restoring(
    build: Build, cas: Cas, work: Path
) -> None:
    remote = f"file://{work}/remote"
    key = cas("key", "generate", "key").stdout.strip()
    settings = f'CAS_REMOTE = "{remote}"\nCAS_REMOTE_SIGN_KEY = "{work}/key"\n'
    build.configure(f'INHERIT += "cas-sysroot"\n{settings}')
    build.populate("zlib", "png")
    ids = sorted(one["id"] for one in cas.json("ls"))
    assert not (work / "remote").exists()

    (gone,) = (name for name in ids if name.startswith("png:"))
    cas("rm", gone)
    build.python("completed")
    assert cas("remote", "ls", remote).stdout.split() == [one for one in ids if one != gone]
    cas("rm", "zlib")
    (cas.store / "config.toml").write_text(f'trusted_keys = ["{key}"]')
    (restored,) = build.path.glob("tmp/sysroots-components/*/zlib/usr/include/zlib.h")
    restored.write_text("not read")
    build.task("zlib", "populate_sysroot_setscene")
    assert cas("export", "zlib", "zlib").returncode == 0
    assert (work / "zlib/usr/include/zlib.h").read_text() == "zlib"


def test_unreachable_remote_fails_no_build(build: Build, work: Path) -> None:
    (work / "remote").write_text("no directory")
    build.configure(f'INHERIT += "cas-sysroot"\nCAS_REMOTE = "file://{work}/remote"\n')
    build.populate("zlib")
    build.task("zlib", "populate_sysroot_setscene")
    build.python("completed")


def test_conflict_fails_the_task_and_names_both(build: Build) -> None:
    build.recipe("fork", **{"usr/include/zlib.h": "another zlib"})
    build.populate("zlib", "fork")
    app(build, "true")
    log = build.task("app", "prepare_recipe_sysroot", "zlib", "fork", code=1)
    assert "ERROR: app: recipes in" in log
    assert "usr/include/zlib.h: zlib wins over fork" in log


def test_refused_mount_falls_back_to_links_and_is_logged(build: Build) -> None:
    build.populate("zlib")
    app(build, "true")
    log = build.task("app", "prepare_recipe_sysroot", "zlib", wrapper=REFUSING)
    assert log.count("NOTE: app: its sysroots are linked, not mounted: ") == 1, log
    assert "overlay: the kernel refuses namespaces here" in log
    assert "linked by the stand-in" in log
    for task in ("configure", "compile"):
        log = build.task("app", task, "zlib", wrapper=REFUSING)
        assert "its sysroots are linked" not in log


def test_recipe_can_choose_links(build: Build) -> None:
    build.populate("zlib")
    app(build, "true", 'CAS_SYSROOT = "link"')
    log = build.task("app", "prepare_recipe_sysroot", "zlib")
    assert "app: its sysroots are linked, not mounted: CAS_SYSROOT is link" in log
    assert "linked by the stand-in" in log
    build.task("app", "compile")
    app(build, "true", 'CAS_SYSROOT = "mount"')
    build.task("app", "prepare_recipe_sysroot", "zlib")
    assert list((build.work("app") / "recipe-sysroot-native").iterdir()) == []


def test_linked_recipe_stays_linked_until_prepared_again(build: Build) -> None:
    build.populate("zlib")
    app(build, "true")
    build.configure("")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.configure()
    assert "linked by the stand-in" in build.task("app", "configure", "zlib")
    assert not (build.work("app") / "cas-sysroots").exists()


def test_stale_sysroot_is_not_mounted_over_a_linked_one(build: Build) -> None:
    build.populate("zlib")
    app(build, "test -e usr || echo linked > ${WORKDIR}/seen")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.configure("")
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.configure()
    build.task("app", "compile")
    assert (build.work("app") / "seen").read_text() == "linked\n"


def test_kernel_recipe_is_linked(build: Build) -> None:
    build.populate("zlib")
    (build.path / "classes").mkdir()
    (build.path / "classes/kernel.bbclass").write_text("")
    app(build, "true", "inherit kernel")
    assert "linked, not mounted: other recipes" in build.task(
        "app", "prepare_recipe_sysroot", "zlib"
    )


def test_recipe_can_write_into_a_writable_sysroot(build: Build) -> None:
    build.populate("zlib")
    app(build, "cat usr/written || true; echo more >> usr/written", 'CAS_SYSROOT = "writable"')
    build.task("app", "prepare_recipe_sysroot", "zlib")
    build.task("app", "configure", "zlib")
    assert "more\n" in build.task("app", "compile")
    assert build.cas("verify").stdout == "no faults found\n"
    assert build.cas("files", "zlib").stdout.split()[-1] == "usr/include/zlib.h"


def test_invalid_mode_is_reported(build: Build) -> None:
    app(build, "true", 'CAS_SYSROOT = "mounted"')
    log = build.task("app", "prepare_recipe_sysroot", code=1)
    assert "CAS_SYSROOT is 'mounted'; it must be one of mount, writable, link" in log


def test_build_continues_without_a_store(build: Build) -> None:
    build.configure('INHERIT += "cas-sysroot"\nCAS_STORE = "/proc/nowhere"')
    build.populate("zlib")
    app(build, "true")
    log = build.task("app", "prepare_recipe_sysroot", "zlib")
    assert "linked, not mounted: No such file or directory: /proc/nowhere" in log


def test_task_without_dependencies_has_plain_directories(build: Build) -> None:
    app(build, "touch new")
    build.task("app", "prepare_recipe_sysroot")
    build.task("app", "configure")
    build.task("app", "compile")
    assert (build.work("app") / "recipe-sysroot/new").exists()
    assert "there is no store" in build.cas("ls").stderr  # and nothing to make one for
