# Mounts recipe sysroots from a store of sysroot-cas, instead of linking them file by file.
# INHERIT += "cas-sysroot" in local.conf; see the README of this layer.

CAS_COMMAND ?= "cas"
CAS_STORE ?= "${TOPDIR}/cas-store"

# The remote shared with other machines, if any: restored sysroots are pulled from it, and at the end
# of a build its sysroots are pushed to it, signed if a key is set.
CAS_REMOTE ?= ""
CAS_REMOTE_SIGN_KEY ?= ""

# The sysroots of a recipe: "mount" (read-only), "writable" (a mount that accepts changes), or
# "link", as without this class. The defaults suit nearly all recipes.
CAS_SYSROOT ?= "mount"
CAS_SYSROOT_WRITABLE ?= "gcc-cross-.* gcc-crosssdk-.* libgcc-initial newlib"
CAS_SYSROOT_LINKED ?= "qemu-helper-native qemuwrapper-cross wic-tools meta-ide-support build-sysroots \
    make-mod-scripts meta-extsdk-toolchain buildtools-.* uninative-tarball"

HOSTTOOLS += "${CAS_COMMAND}"
# Other processes remove files that tasks make in the store; pseudo(1) must not track those.
PSEUDO_IGNORE_PATHS .= ",${CAS_STORE},${WORKDIR}/cas-sysroots"

def cas_yocto(d, name):
    """Import a module of the layer's library."""
    import importlib
    import sys
    if sys.version_info < (3, 11):
        bb.fatal("cas-sysroot.bbclass needs BitBake to run with Python 3.11 or newer")
    for path in reversed(d.getVar("CAS_PYTHON_PATH").split(":")):
        if path not in sys.path:
            sys.path.insert(0, path)
    return importlib.import_module("cas_yocto." + name)

python cas_put_sysroot() {
    if e.task in ("do_populate_sysroot", "do_populate_sysroot_setscene"):
        upload = cas_yocto(d, "upload")
        if isinstance(e, bb.build.TaskStarted):
            upload.forget_own_component(d)
        else:
            upload.store_own_component(d, restored=e.task.endswith("_setscene"))
}
cas_put_sysroot[eventmask] = "bb.build.TaskStarted bb.build.TaskSucceeded"
addhandler cas_put_sysroot

python cas_push_sysroots() {
    cas_yocto(d, "upload").push_components(d)
}
cas_push_sysroots[eventmask] = "bb.event.BuildCompleted"
addhandler cas_push_sysroots

python cas_extend_recipe_sysroot() {
    sysroots = cas_yocto(d, "sysroots")
    link = lambda: bb.build.exec_func("cas_link_recipe_sysroot", d)
    sysroots.extend(d, sysroots.StagingFunctions(setscene_depvalid, staging_processfixme, link))
}

python cas_mount_sysroots() {
    cas_yocto(d, "sysroots").mount(d)
}

# Keep the function of staging.bbclass under another name, for recipes that link.
python() {
    def copy(function, name):
        d.setVar(name, d.getVar(function, False))
        for flag in ("func", "python", "filename", "lineno"):
            d.setVarFlag(name, flag, d.getVarFlag(function, flag, False))
    copy("extend_recipe_sysroot", "cas_link_recipe_sysroot")
    copy("cas_extend_recipe_sysroot", "extend_recipe_sysroot")
}

# Mount the prepared sysroots, if any, in every task except those that make or delete them or run
# before they are made. No task's hash includes this.
python cas_mount_in_tasks() {
    import re
    unmounted_tasks = re.compile("do_(fetch|unpack|prepare_recipe_sysroot|build|listtasks|rm_work.*|"
                                 "clean.*|checkuri|.*_setscene|.*_all)$")
    for task in e.tasklist:
        prefuncs = (d.getVarFlag(task, "prefuncs") or "").split()
        if unmounted_tasks.match(task) or "extend_recipe_sysroot" in prefuncs:
            continue
        d.prependVarFlag(task, "prefuncs", "cas_mount_sysroots ")
        d.appendVarFlag(task, "vardepsexclude", " cas_mount_sysroots")
}
cas_mount_in_tasks[eventmask] = "bb.event.RecipeTaskPreProcess"
addhandler cas_mount_in_tasks
