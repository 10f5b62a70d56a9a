# shellcheck shell=sh
# Sourced by scripts that speak before there is a Python: `either ENGLISH CHINESE` prints the one that MP_LANG asks for,
# else the locale, as `language_of` in megatron_patch/common/messages.py decides.
case ${MP_LANG:-} in
en | zh) language=$MP_LANG ;;
*) case ${LC_ALL:-${LC_MESSAGES:-${LANG:-}}} in [zZ][hH]*) language=zh ;; *) language=en ;; esac ;;
esac
either() { if [ "$language" = zh ]; then printf '%s\n' "$2"; else printf '%s\n' "$1"; fi; }
