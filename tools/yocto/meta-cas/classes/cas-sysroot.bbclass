# Recipe sysroots are mounted from a store of sysroot-cas instead of being linked file by file.
# INHERIT += "cas-sysroot" in local.conf; see the README of this layer.

CAS_COMMAND ?= "cas"
CAS_STORE ?= "${TOPDIR}/cas-store"

# Where other machines' sysroots are, if anywhere: restored ones are pulled from there, and all that a
# build has are pushed at its end, signed if there is a key.
CAS_REMOTE ?= ""
CAS_REMOTE_SIGN_KEY ?= ""

# How a recipe gets its sysroots: "mount" (read-only), "writable" (a mount that takes changes), or
# "link", as without this class. Recipes that are not named here have what suits nearly all.
CAS_SYSROOT ?= "mount"
CAS_SYSROOT_WRITABLE ?= "gcc-cross-.* gcc-crosssdk-.* libgcc-initial newlib"
CAS_SYSROOT_LINKED ?= "qemu-helper-native qemuwrapper-cross wic-tools meta-ide-support build-sysroots \
    make-mod-scripts meta-extsdk-toolchain buildtools-.* uninative-tarball"

HOSTTOOLS += "${CAS_COMMAND}"
# What pseudo(1) does not know it does not miss either: others remove what tasks make in the store.
PSEUDO_IGNORE_PATHS .= ",${CAS_STORE},${WORKDIR}/cas-sysroots"

def cas_yocto(d, name):
    """Import a module of the layer's library."""
    import importlib
    import sys
    if sys.version_info < (3, 11):
        bb.fatal("cas-sysroot.bbclass needs a BitBake that runs with Python 3.11 or newer")
    for path in reversed(d.getVar("CAS_PYTHON_PATH").split(":")):
        if path not in sys.path:
            sys.path.insert(0, path)
    return importlib.import_module("cas_yocto." + name)

python cas_put_sysroot() {
    if e.task in ("do_populate_sysroot", "do_populate_sysroot_setscene"):
        upload = cas_yocto(d, "upload")
        if isinstance(e, bb.build.TaskStarted):
            upload.forget_own(d)
        else:
            upload.put_own(d, restored=e.task.endswith("_setscene"))
}
cas_put_sysroot[eventmask] = "bb.build.TaskStarted bb.build.TaskSucceeded"
addhandler cas_put_sysroot

python cas_push_sysroots() {
    cas_yocto(d, "upload").push_all(d)
}
cas_push_sysroots[eventmask] = "bb.event.BuildCompleted"
addhandler cas_push_sysroots

python cas_extend_recipe_sysroot() {
    sysroots = cas_yocto(d, "sysroots")
    link = lambda: bb.build.exec_func("cas_link_recipe_sysroot", d)
    sysroots.extend(d, sysroots.Stock(setscene_depvalid, staging_processfixme, link))
}

python cas_mount_sysroots() {
    cas_yocto(d, "sysroots").mount(d)
}

# The function of staging.bbclass is kept under another name, for recipes that link.
python() {
    def copy(function, name):
        d.setVar(name, d.getVar(function, False))
        for flag in ("func", "python", "filename", "lineno"):
            d.setVarFlag(name, flag, d.getVarFlag(function, flag, False))
    copy("extend_recipe_sysroot", "cas_link_recipe_sysroot")
    copy("cas_extend_recipe_sysroot", "extend_recipe_sysroot")
}

# Every other task mounts what was prepared, if anything was. Those that make the sysroot, that
# come before it, or that delete it, do not. None of it is in a task's hash.
python cas_mount_in_tasks() {
    import re
    without = re.compile("do_(fetch|unpack|prepare_recipe_sysroot|build|listtasks|rm_work.*|"
                         "clean.*|checkuri|.*_setscene|.*_all)$")
    for task in e.tasklist:
        prefuncs = (d.getVarFlag(task, "prefuncs") or "").split()
        if without.match(task) or "extend_recipe_sysroot" in prefuncs:
            continue
        d.prependVarFlag(task, "prefuncs", "cas_mount_sysroots ")
        d.appendVarFlag(task, "vardepsexclude", " cas_mount_sysroots")
}
cas_mount_in_tasks[eventmask] = "bb.event.RecipeTaskPreProcess"
addhandler cas_mount_in_tasks
