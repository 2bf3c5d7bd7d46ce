# What tools/buildroot finds in Buildroot: its macros, and a rule for each step of a package.
BR2_PER_PACKAGE_DIRECTORIES := y
BR2_EXTERNAL_CAS_PATH := $(EXTERNAL)
PER_PACKAGE_DIR := $(CURDIR)/per-package
STAGING_SUBDIR := arch/sysroot
HOST_DIR = $(PER_PACKAGE_DIR)/$($(PKG)_NAME)/host
STAGING_DIR = $(HOST_DIR)/$(STAGING_SUBDIR)
per-package-rsync = : linked $(2) of $(1)
pkg_size_before = : before $(2)
pkg_size_after = : after $(2)
include $(EXTERNAL)/external.mk

GREET_NAME := greet
GREET_INSTALL = mkdir -p $(HOST_DIR)/include && echo '$(or $(WORD),Hello)' > $(HOST_DIR)/include/greet.h
APP_NAME := app
APP_NEEDS := greet
APP_INSTALL = mkdir $(HOST_DIR)/bin; cat $(HOST_DIR)/include/greet.h > $(HOST_DIR)/bin/app $(DAMAGE)
ALL_NAME := all
ALL_NEEDS := app
ALL_INSTALL = grep . -r $(HOST_DIR)
build/greet/%: PKG = GREET
build/app/%: PKG = APP
build/all/%: PKG = ALL
step = $(foreach hook,$(GLOBAL_INSTRUMENTATION_HOOKS),$(call $(hook),$(1),$(2),$($(PKG)_NAME)))

build/%/.stamp_configured:
	@mkdir -p $(@D) $(HOST_DIR) $(STAGING_DIR)
	@$(call step,start,configure)
	$(call per-package-rsync,$($(PKG)_NEEDS),host,$(HOST_DIR),hardlink)
	$(call per-package-rsync,$($(PKG)_NEEDS),target,target,hardlink)
	@$(call pkg_size_before,$(HOST_DIR),-host)
	@touch $@
build/%/.stamp_installed: build/%/.stamp_configured
	@$(call step,start,install-host)
	$($(PKG)_INSTALL)
	@$(call pkg_size_after,$(HOST_DIR),-host)
	@touch $@
build/app/.stamp_configured: | build/greet/.stamp_installed
build/all/.stamp_configured: | build/app/.stamp_installed
host: build/all/.stamp_installed
	$(call per-package-rsync,greet app all,host,$(CURDIR)/host,copy)
