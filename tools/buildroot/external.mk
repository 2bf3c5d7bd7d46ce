ifeq ($(BR2_PER_PACKAGE_DIRECTORIES),y)
CAS_HOST = PER_PACKAGE_DIR=$(PER_PACKAGE_DIR) $(BR2_EXTERNAL_CAS_PATH)/cas-host

# Keeps Buildroot's macro $(1) as $(1)-without-cas.
define cas-keep
define $(1)-without-cas
$(value $(1))
endef
endef
$(foreach macro,per-package-rsync pkg_size_before pkg_size_after,$(eval $(call cas-keep,$(macro))))

# Host directories of packages $(1) to directory $(3): mounted for a package, copied in the end.
cas-hardlink = $(Q)$(CAS_HOST) mount $($(PKG)_NAME) $(@F) $(1) && mkdir -p $(STAGING_DIR)
cas-copy = $(Q)$(CAS_HOST) copy $(3) $(1) && mkdir -p $(STAGING_DIR)
define per-package-rsync
$(call $(if $(filter host,$(2)),cas-$(4),$(0)-without-cas),$(1),$(2),$(3),$(4))
endef

# What a package installs is what has come to its host directory since that was prepared.
define pkg_size_before
$(call $(0)-without-cas,$(1),$(2))
$(if $(filter -host,$(2)),$(Q)$(CAS_HOST) before $($(PKG)_NAME))
endef
define pkg_size_after
$(call $(0)-without-cas,$(1),$(2))
$(if $(filter -host,$(2)),$(Q)$(CAS_HOST) after $($(PKG)_NAME))
endef

# Mounts end with the make in whose namespace they are; the next one mounts what a step needs.
cas-step = $(if $(filter start,$(1)),$(CAS_HOST) again $(3))
GLOBAL_INSTRUMENTATION_HOOKS += cas-step
endif
