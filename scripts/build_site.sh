#!/usr/bin/env bash
# Builds the documentation site into build/site, a folder that any web server serves. Fails if a link
# leads nowhere, a public name has no documentation, or a page would fetch something from elsewhere.
# Half a minute; to look at it:
#
#   scripts/build_site.sh && python -m http.server --directory build/site
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_package test
# A notice about versions of MkDocs to come.
export NO_MKDOCS_2_WARNING=1
"$VENV_PYTHON" -m mkdocs build --quiet
"$VENV_PYTHON" scripts/site/check_names.py build/site
echo "The site is in build/site."
