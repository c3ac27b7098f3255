#!/bin/bash
# Installs the Baal agent on this Debian machine, or brings it up to date. Run as root:
#
#   install.sh --binary FILE --config FILE
#
# The units are expected beside this script. Running it again with nothing new changes nothing and restarts nothing. It
# reads no name, prompt or key into a command line: what users wrote is in the configuration, which is copied as a file.
set -euo pipefail
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
agent_home=/var/lib/baal-agent
# The owner's tools and the visitors' are two users, each with a workspace in a home of that name.
tools=(baal-tools baal-guests)
program=/usr/local/bin/baal-agent
rules=/usr/local/lib/baal/baal-tools.nft
units=(baal-tools-firewall.service baal.slice baal-guests.slice baal-tools.socket baal-guests.socket baal-tools@.service
    baal-agent.service)

fail() { echo "install: $*" >&2; exit 1; }
did() { echo "install: $*"; }
usage() { echo "usage: install.sh --binary FILE --config FILE" >&2; exit 2; }

binary='' config=''
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:-}; shift 2 || usage ;;
        --config) config=${2:-}; shift 2 || usage ;;
        *) usage ;;
    esac
done
[ -n "$binary" ] && [ -n "$config" ] || usage
[ -f "$binary" ] || fail "there is no program at $binary; give the file that 'make agent' builds"
[ -f "$config" ] || fail "there is no configuration at $config"
[ "$(id -u)" = 0 ] || fail "run this as root"
[ -d /run/systemd/system ] || fail "this machine doesn't run systemd, which starts the agent and its tools"
for unit in "${units[@]}" baal-tools.nft; do
    [ -f "$here/$unit" ] || fail "$here/$unit is missing; copy the whole directory of this script"
done

exec 9>/run/baal-install.lock
flock -w 300 9 || fail "another installation has been at work for five minutes; look at it, then try again"

# ── What Debian brings ─────────────────────────────────────────────────────────────────────────────────────────────────
missing=()
command -v nft >/dev/null || missing+=(nftables)
[ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "install ${missing[*]}, then try again: there is no apt-get here"
    get() { DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null >/dev/null; }
    get update
    get install -y --no-install-recommends "${missing[@]}"
    did "installed ${missing[*]}"
fi

# ── Users ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
# The home doesn't exist: a command can write where it works, and there must be no ~/.ssh/authorized_keys, .forward, .profile
# or user units among what it can write.
for user in baal-agent "${tools[@]}"; do
    if ! getent passwd "$user" >/dev/null; then
        useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
        did "made user $user"
    fi
    IFS=: read -r _ _ uid _ _ home shell < <(getent passwd "$user")
    [ "$uid" != 0 ] || fail "user $user is root; remove that entry from /etc/passwd"
    if [ "$home" != /nonexistent ] || [ "$shell" != /usr/sbin/nologin ]; then
        usermod --home /nonexistent --shell /usr/sbin/nologin "$user"
        did "user $user can no longer log in"
    fi
    case $(getent shadow "$user" | cut -d: -f2) in
        '!'* | '*') ;;
        *) usermod --lock "$user"; did "user $user has no password any more" ;;
    esac
    groups=$(id -nG "$user")
    if [ "$groups" != "$user" ]; then
        usermod --groups '' "$user"
        did "user $user is in no other group any more"
    fi
done

deny() { # deny FILE: no jobs for the tools' users. A second wall: crontab and at are setgid, which tools can't use.
    local user
    for user in "${tools[@]}"; do
        grep -qsx "$user" "$1" && continue
        echo "$user" >>"$1"
        did "forbade jobs in $1"
    done
}
# An empty cron.deny means the same as none on Debian; a new at.deny would allow at to everyone who is not in it.
deny /etc/cron.deny
[ ! -e /etc/at.deny ] || deny /etc/at.deny

# ── Directories ────────────────────────────────────────────────────────────────────────────────────────────────────────
directory() { # directory PATH OWNER GROUP MODE
    if [ -L "$1" ] || { [ -e "$1" ] && [ ! -d "$1" ]; }; then fail "$1 is not a directory; move it away"; fi
    [ "$(stat -c %U:%G:%a "$1" 2>/dev/null)" = "$2:$3:$4" ] && return
    install -d -o "$2" -g "$3" -m "$4" "$1"
    did "set up $1"
}
directory "$agent_home" baal-agent baal-agent 700
# Above the workspace is root's: what stands there can't be exchanged by a command.
for user in "${tools[@]}"; do
    directory "/var/lib/$user" root "$user" 710
    directory "/var/lib/$user/workspace" "$user" "$user" 700
done
directory "$(dirname "$rules")" root root 755

# ── Files ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
changed=' '
place() { # place SOURCE TARGET MODE: in one step, so that nobody ever sees half a file
    if [ ! -L "$2" ] && cmp -s "$1" "$2" && [ "$(stat -c %U:%G:%a "$2")" = "root:root:$3" ]; then return; fi
    install -o root -g root -m "$3" "$1" "$2.new"
    sync "$2.new"
    mv -f -T "$2.new" "$2"
    changed+="$(basename "$2") "
    did "wrote $2"
}
has_changed() { case $changed in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# The new program checks the configuration before anything of the old installation changes.
candidate=$(mktemp -d)
trap 'rm -rf "$candidate"' EXIT
install -m 700 "$binary" "$candidate/baal-agent"
install -m 600 "$config" "$candidate/config.json"
"$candidate/baal-agent" --config "$candidate/config.json" --check >/dev/null ||
    fail "the configuration is not good (see above); nothing of the agent was changed"

place "$binary" "$program" 755
place "$here/baal-tools.nft" "$rules" 644
for unit in "${units[@]}"; do place "$here/$unit" "/etc/systemd/system/$unit" 644; done
# The same unit under the other user's name.
place "$here/baal-tools@.service" /etc/systemd/system/baal-guests@.service 644

# The directory is the agent's, so only the agent's user may work in it: root could be led astray by a link.
as_agent() { setpriv --reuid baal-agent --regid baal-agent --clear-groups --no-new-privs "$@"; }
if ! as_agent cat "$agent_home/config.json" 2>/dev/null | cmp -s - "$candidate/config.json"; then
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_agent sh -c 'umask 077 && rm -rf "$1.new" && cat >"$1.new" && sync "$1.new" && mv -f -T "$1.new" "$1"' \
        sh "$agent_home/config.json" <"$candidate/config.json"
    changed+='config.json '
    did "wrote $agent_home/config.json"
fi

# ── Units ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
case $changed in *.service* | *.socket* | *.slice*) systemctl daemon-reload ;; esac
starts=(baal-tools-firewall.service baal-tools.socket baal-guests.socket baal-agent.service)
for unit in "${starts[@]}"; do
    systemctl is-enabled --quiet "$unit" || { systemctl enable --quiet "$unit"; did "enabled $unit"; }
done

restart() { systemctl restart "$1"; did "restarted $1"; }
run() { # run UNIT CAUSE...: restarted when one of the causes changed, started when it isn't running
    local unit=$1 cause
    for cause in "$@"; do
        if has_changed "$cause"; then restart "$unit"; return; fi
    done
    systemctl is-active --quiet "$unit" || { systemctl reset-failed "$unit" 2>/dev/null || true; restart "$unit"; }
}
run baal-tools-firewall.service baal-tools.nft
# Rules that were flushed by hand are missing though their unit is active.
nft list table inet baal_tools >/dev/null 2>&1 || restart baal-tools-firewall.service
run baal-tools.socket
run baal-guests.socket
run baal-agent.service baal-agent config.json

# ── Healthy? ───────────────────────────────────────────────────────────────────────────────────────────────────────────
healthy() {
    local address status
    # Written by the agent once it listens.
    address=$(as_agent sed -n 's/.*"address":"\([0-9.]*:[0-9]*\)".*/\1/p' "$agent_home/agent.lock" 2>/dev/null) || return 1
    [ -n "$address" ] || return 1
    status=$(timeout 2 bash -c 'exec 3<>"/dev/tcp/${1%:*}/${1##*:}" && printf "GET /health HTTP/1.0\r\n\r\n" >&3 && head -n 1 <&3' \
        bash "$address" 2>/dev/null) || return 1
    case $status in *' 200 '*) return 0 ;; *) return 1 ;; esac
}
for ((try = 0; try < 300; try++)); do
    if systemctl is-active --quiet baal-agent.service && healthy; then
        [ "$changed" != ' ' ] || did "nothing was new"
        did "the agent is healthy"
        exit 0
    fi
    systemctl is-failed --quiet baal-agent.service && break
    sleep 0.1
done
journalctl -u baal-agent.service -n 20 --no-pager -o cat >&2 || true
fail "the agent is not healthy; above are its last words, more with: journalctl -u baal-agent.service"
