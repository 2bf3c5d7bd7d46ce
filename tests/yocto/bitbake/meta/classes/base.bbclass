# Stands in for OpenEmbedded's classes: what the layer overrides, calls, or adds to.

addtask do_patch
addtask do_prepare_recipe_sysroot after do_patch
addtask do_configure after do_prepare_recipe_sysroot
addtask do_compile after do_configure
addtask do_populate_sysroot after do_compile
addtask do_populate_sysroot_setscene
addtask do_package after do_populate_sysroot
addtask do_clean

# Tasks with sstate have the network, and so no user namespace of their own.
do_populate_sysroot[network] = "1"
do_populate_sysroot_setscene[network] = "1"
do_package[network] = "1"
do_package[depends] = "late:do_populate_sysroot"

do_patch() {
    :
}
do_configure() {
    :
}
do_compile() {
    :
}
do_package() {
    :
}
do_clean() {
    rm -rf ${WORKDIR}/cas-sysroots ${RECIPE_SYSROOT} ${RECIPE_SYSROOT_NATIVE}
}

do_populate_sysroot() {
    component=${COMPONENTS_DIR}/${PACKAGE_ARCH}/${PN}
    mkdir -p $component ${SSTATE_MANIFESTS}
    cp -a ${D}/. $component
    find $component > ${SSTATE_MANFILEPREFIX}.populate_sysroot
}

# What sstate would restore is there.
do_populate_sysroot_setscene() {
    :
}

python extend_recipe_sysroot() {
    bb.note("linked by the stand-in")
    bb.utils.mkdirhier(d.getVar("RECIPE_SYSROOT"))
    installed = d.expand("${RECIPE_SYSROOT_NATIVE}/installeddeps")
    bb.utils.mkdirhier(installed)
    open(f"{installed}/index.{d.getVar('BB_RUNTASK')}", "w").close()
}
extend_recipe_sysroot[vardepsexclude] += "BB_TASKDEPDATA"

python do_prepare_recipe_sysroot() {
    bb.build.exec_func("extend_recipe_sysroot", d)
}
do_prepare_recipe_sysroot[vardepsexclude] += "extend_recipe_sysroot"

python extend_in_tasks() {
    for task in e.tasklist:
        depends = d.getVarFlag(task, "depends") or ""
        if task == "do_configure" or "populate_sysroot" in depends:
            d.prependVarFlag(task, "prefuncs", "extend_recipe_sysroot ")
            d.appendVarFlag(task, "vardepsexclude", " extend_recipe_sysroot")
}
extend_in_tasks[eventmask] = "bb.event.RecipeTaskPreProcess"
addhandler extend_in_tasks

def setscene_depvalid(task, dependees, notneeded, d, log=None):
    # What a tool depends on is of no use to who uses the tool.
    return any(pn.endswith("-native") for key, (pn, _) in dependees.items() if key != task)

def staging_processfixme(fixmes, target, sysroot, native, d):
    for fixme in fixmes:
        with open(fixme) as file:
            for line in file:
                path = os.path.join(target, line.strip().partition("/")[2])
                with open(path) as relocated:
                    text = relocated.read().replace("FIXMESTAGINGDIRTARGET", sysroot)
                    mode = os.fstat(relocated.fileno()).st_mode
                os.unlink(path)
                with open(path, "w") as relocated:
                    relocated.write(text)
                os.chmod(path, mode)
