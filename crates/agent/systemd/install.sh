#!/bin/bash
# Installs the Baal agent on this Debian machine, or brings it up to date. Run as root:
#
#   install.sh --binary FILE|--sha256 HASH [--config FILE [--take-over]] [--package NAME]...
#
# --sha256 means the program that is installed, or staged in /var/lib/baal/staged, with that hash. Without --config everything
# is made ready and the agent not started. The units are expected beside this script. Running it again with nothing new
# changes nothing and restarts nothing. It reads no name, prompt or key into a command line: what users wrote is in the
# configuration, which is copied as a file.
#
# --take-over means that a Python agent may run here, which is to become this one: see takeover.sh.
#
# When the agent does not become healthy, the last program and configuration that were are put back, or the Python agent.
# Exit status: 0 healthy; 70 no program has that hash, nothing was touched; 76 the last healthy ones run again; others: failed.
#
# It may be killed, or the machine lose its power, after any line. What holds then:
# - every file is whole, the old one or the new one, because all are put in place by a rename;
# - what was changed and not yet followed by a restart is in $dirty, written before the change. It is gone after a boot, which
#   restarts everything anyway;
# - $state/good names one program and one configuration that were healthy together. It is exchanged by a rename, after the
#   agent was found healthy and never before.
# So the next run ends where this one would have.
set -euo pipefail
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C
umask 022

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
agent_home=/var/lib/baal-agent
# Root's own. The program must be on a disk that allows execution, which /run and /tmp need not.
state=/var/lib/baal
dirty=/run/baal-install.changed
# The owner's tools and the visitors' are two users, each with a workspace in a home of that name.
tools=(baal-tools baal-guests)
program=/usr/local/bin/baal-agent
rules=/usr/local/lib/baal/baal-tools.nft
units=(baal-tools-firewall.service baal.slice baal-guests.slice baal-tools.socket baal-guests.socket baal-tools@.service
    baal-agent.service)

fail() { echo "install: $*" >&2; exit 1; }
# Whoever listens may go away; the work goes on.
did() { echo "install: $*" || true; }
usage() { sed -n 4p "${BASH_SOURCE[0]}" | sed 's/^# */usage: /' >&2; exit 2; }

binary='' sha256='' config='' take_over='' packages=(nftables ca-certificates openssl)
while [ $# -gt 0 ]; do
    case $1 in
        --binary) binary=${2:-}; shift 2 || usage ;;
        --sha256) sha256=${2:-}; shift 2 || usage ;;
        --config) config=${2:-}; shift 2 || usage ;;
        --take-over) take_over=yes; shift ;;
        --package) packages+=("${2:-}"); shift 2 || usage ;;
        *) usage ;;
    esac
done
[ -n "$binary$sha256" ] || usage
[ -z "$binary" ] || [ -f "$binary" ] || fail "there is no program at $binary; give the file that 'make agent' builds"
[ -z "$config" ] || [ -f "$config" ] || fail "there is no configuration at $config"
[ "$(id -u)" = 0 ] || fail "run this as root"
[ -d /run/systemd/system ] || fail "this machine doesn't run systemd, which starts the agent and its tools"
for unit in "${units[@]}" baal-tools.nft takeover.sh; do
    [ -f "$here/$unit" ] || fail "$here/$unit is missing; copy the whole directory of this script"
done

# Whoever started this may go away, with its ends of the pipes: what was begun is brought to its end nevertheless.
trap '' HUP PIPE
exec 9>/run/baal-install.lock
flock -w 300 9 || fail "another installation has been at work for five minutes; look at it, then try again"

# ── Which program ──────────────────────────────────────────────────────────────────────────────────────────────────────
# Before anything else: the one who sends it then sends it and comes back.
staged=$state/staged/baal-agent
has_hash() { [ -f "$1" ] && [ ! -L "$1" ] && [ "$(sha256sum <"$1")" = "$sha256  -" ]; }
if [ -z "$binary" ]; then
    case $sha256 in *[!0-9a-f]*) usage ;; esac
    if has_hash "$program"; then binary=$program
    elif has_hash "$staged"; then binary=$staged
    else echo "install: the program with the hash $sha256 is not here" >&2; exit 70; fi
fi

# ── What Debian brings ─────────────────────────────────────────────────────────────────────────────────────────────────
# Looking into dpkg's files costs more than the rest, so that is done only where packages are asked for.
if [ ${#packages[@]} -gt 3 ]; then
    missing=()
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
else
    missing=()
    command -v nft >/dev/null || missing+=(nftables)
    command -v openssl >/dev/null || missing+=(openssl)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
fi
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "install ${missing[*]}, then try again: there is no apt-get here"
    # Without the lock, which a service that a package starts would keep.
    get() { DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null >/dev/null 9>&- 8<&-; }
    fetch() { get install -y --no-install-recommends --download-only "${missing[@]}" "$@"; }
    began=${EPOCHREALTIME/[.,]/}
    # What was cut off in the middle is brought to its end first.
    [ -z "$(find /var/lib/dpkg/updates -type f -print -quit)" ] || dpkg --force-confdef --force-confold --configure -a </dev/null >/dev/null 9>&-
    # The lists of the machine's first boot may do, and may be outdated.
    if [ -z "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit)" ] || ! fetch 2>/dev/null; then
        get -o Acquire::Languages=none update
        fetch
    fi
    fetched=${EPOCHREALTIME/[.,]/}
    get install -y --no-install-recommends -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "${missing[@]}"
    now=${EPOCHREALTIME/[.,]/}
    did "installed ${missing[*]}: fetched in $(((fetched - began) / 1000)) ms, set up in $(((now - fetched) / 1000)) ms"
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
# Asked for all at once, here and below: what costs time in an installation with nothing new is the starting of programs.
facts=$(stat -c '%n %U:%G:%a' "$agent_home" /var/lib/baal-{tools,guests}{,/workspace} "$(dirname "$rules")" "$state"{,/staged} \
    "$program" "$rules" "${units[@]/#//etc/systemd/system/}" /etc/systemd/system/baal-guests@.service 2>/dev/null) || true
is_as() { [[ $'\n'$facts$'\n' == *$'\n'"$1 $2"$'\n'* ]]; }
directory() { # directory PATH OWNER GROUP MODE
    if [ -L "$1" ] || { [ -e "$1" ] && [ ! -d "$1" ]; }; then fail "$1 is not a directory; move it away"; fi
    is_as "$1" "$2:$3:$4" && return
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

directory "$state" root root 700
directory "$state/staged" root root 700

# ── Files ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
note_change() { printf '%s\n' "$1" >>"$dirty"; }
has_changed() { grep -qsxF -e "$1" "$dirty"; }
place() { # place SOURCE TARGET MODE: in one step, so that nobody ever sees half a file
    if [ ! -L "$2" ] && [ -f "$2" ] && is_as "$2" "root:root:$3" && { [ "$1" = "$2" ] || cmp -s "$1" "$2"; }; then return; fi
    rm -rf "$2.new"
    install -o root -g root -m "$3" "$1" "$2.new"
    sync "$2.new"
    note_change "$(basename "$2")"
    [ ! -d "$2" ] || rm -rf "$2"
    mv -f -T "$2.new" "$2"
    # As it is now.
    facts+=$'\n'"$2 root:root:$3"
    did "wrote $2"
}

# The directory is the agent's, so only the agent's user may work in it: root could be led astray by a link.
as_agent() { setpriv --reuid baal-agent --regid baal-agent --clear-groups --no-new-privs "$@"; }
has_config() { as_agent cat "$agent_home/config.json" 2>/dev/null | cmp -s - "$1"; }
place_config() { # place_config SOURCE
    has_config "$1" && return
    note_change config.json
    # shellcheck disable=SC2016 # expanded by the inner shell
    as_agent sh -c 'umask 077 && rm -rf "$1.new" && cat >"$1.new" && sync "$1.new" && mv -f -T "$1.new" "$1"' \
        sh "$agent_home/config.json" <"$1"
    did "wrote $agent_home/config.json"
}

place_units() {
    place "$here/baal-tools.nft" "$rules" 644
    for unit in "${units[@]}"; do
        # The Python agent's has the same name, and runs until it is taken over.
        if [ "$unit" = baal-agent.service ] && grep -qs '^ExecStart=/opt/baal-agent/' "/etc/systemd/system/$unit"; then continue; fi
        place "$here/$unit" "/etc/systemd/system/$unit" 644
    done
    # The same unit under the other user's name.
    place "$here/baal-tools@.service" /etc/systemd/system/baal-guests@.service 644
}

# ── Units ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
# systemd itself may hang, on a machine that is out of memory or has a dead disk.
ctl() { timeout -k 5 90 systemctl "$@"; }
restart() { ctl restart "$1"; did "restarted $1"; }
look_at() { # look_at UNIT...: their states, for the two below
    states=$'\n'$(ctl show -p Id -p ActiveState -p UnitFileState "$@")$'\n'
}
is_active() { [[ $states == *$'\n'"Id=$1"$'\n'ActiveState=active$'\n'* ]]; }
is_enabled() { [[ $states =~ $'\n'"Id=$1"$'\n'ActiveState=[a-z]+$'\n'UnitFileState=enabled$'\n' ]]; }
run() { # run UNIT CAUSE...: restarted when one of the causes changed, started when it isn't running
    local unit=$1 cause
    for cause in "$@"; do
        if has_changed "$cause"; then restart "$unit"; return; fi
    done
    is_active "$unit" || { ctl reset-failed "$unit" 2>/dev/null || true; restart "$unit"; }
}
keep_enabled() {
    local unit off=()
    for unit in "$@"; do is_enabled "$unit" || off+=("$unit"); done
    [ ${#off[@]} -gt 0 ] || return 0
    ctl enable --quiet "${off[@]}"
    did "enabled ${off[*]}"
}
start_tools() {
    ! grep -qsE '\.(service|socket|slice)$' "$dirty" || ctl daemon-reload
    look_at baal-tools-firewall.service baal-tools.socket baal-guests.socket baal-agent.service
    keep_enabled baal-tools-firewall.service baal-tools.socket baal-guests.socket
    run baal-tools-firewall.service baal-tools.nft
    # Rules that were flushed by hand are missing though their unit is active.
    nft list table inet baal_tools >/dev/null 2>&1 || restart baal-tools-firewall.service
    run baal-tools.socket
    run baal-guests.socket
}

# ── Without a configuration: as far as one can go ──────────────────────────────────────────────────────────────────────
if [ -z "$config" ]; then
    if as_agent test -e "$agent_home/config.json"; then
        # An agent lives here. It gets a new program together with its next configuration, so that both can be taken back.
        if [ "$binary" != "$program" ] && [ "$binary" != "$staged" ]; then place "$binary" "$staged" 700; fi
    else
        place "$binary" "$program" 755
        rm -f "$staged" "$staged".*
    fi
    place_units
    start_tools
    if ! as_agent test -e "$agent_home/config.json"; then rm -f "$dirty"; fi
    did "everything is ready for a configuration"
    exit 0
fi

# ── Healthy? ───────────────────────────────────────────────────────────────────────────────────────────────────────────
answers() { # answers PID: the process that systemd calls the agent listens, and says that it is well
    local lock address status
    # Written by the agent once it listens.
    lock=$(as_agent cat "$agent_home/agent.lock" 2>/dev/null | head -c 300) || return 1
    [[ $lock =~ \"pid\":\ *$1[,}] && $lock =~ \"address\":\ *\"([0-9.]+):([0-9]+)\" ]] || return 1
    address="/dev/tcp/${BASH_REMATCH[1]}/${BASH_REMATCH[2]}"
    # shellcheck disable=SC2016 # expanded by the inner shell
    status=$(timeout 2 bash -c 'exec 3<>"$1" && printf "GET /health HTTP/1.0\r\n\r\n" >&3 && head -n 1 <&3' bash "$address" 2>/dev/null) || return 1
    [[ $status == *' 200 '* ]]
}
healthy() { # healthy: within 30 s; one that ends again and again is given up before
    local try unit pid restarts first=''
    for ((try = 0; try < 600; try++)); do
        unit=$(ctl show -p ActiveState -p MainPID -p NRestarts baal-agent.service) || return 1
        [[ $unit =~ MainPID=([0-9]+) ]] && pid=${BASH_REMATCH[1]}
        [[ $unit =~ NRestarts=([0-9]+) ]] && restarts=${BASH_REMATCH[1]}
        if [[ $unit == *ActiveState=active* ]] && answers "$pid"; then return 0; fi
        [[ $unit != *ActiveState=failed* ]] || return 1
        [ "$restarts" -lt $((${first:=$restarts} + 4)) ] || return 1
        sleep 0.05
    done
    return 1
}

# ── Attempt, keep, take back ───────────────────────────────────────────────────────────────────────────────────────────
attempt() { # attempt PROGRAM CONFIG: does not return where it fails
    place "$1" "$program" 755
    place_config "$2"
    [ -z "$take_over" ] || bash "$here/takeover.sh" --begin
    place_units
    start_tools
    keep_enabled baal-agent.service
    run baal-agent.service baal-agent config.json
    healthy
}
good=$state/good
is_good() { cmp -s "$2" "$good/config.json" && cmp -s "$1" "$good/baal-agent"; }
keep() { # keep PROGRAM CONFIG: they are healthy
    local new old
    is_good "$1" "$2" && return
    new=$(mktemp -d "$state/was-healthy.XXXXXXXX")
    install -m 600 "$2" "$new/config.json"
    # A link may be exchanged, a directory not.
    old=$(readlink -f "$good") || true
    if [ -n "$old" ] && cmp -s "$1" "$old/baal-agent" && ln "$old/baal-agent" "$new/baal-agent"; then
        { grep '  baal-agent$' "$old/SHA256SUMS"; cd "$new" && sha256sum config.json; } >"$new/SHA256SUMS"
    else
        install -m 700 "$1" "$new/baal-agent"
        cd "$new" && sha256sum baal-agent config.json >SHA256SUMS
    fi
    cd /
    sync "$new"/* "$new"
    rm -rf "$good.new"
    ln -s "$(basename "$new")" "$good.new"
    mv -f -T "$good.new" "$good"
    for old in "$state"/was-healthy.*; do [ "$old" = "$new" ] || rm -rf "$old"; done
}

# What an attempt changes is in a subshell of its own, which ends at its first error; `set -e` doesn't hold inside conditions.
trying() { set +e; (set -e; "$@"); outcome=$?; set -e; }

work=$(mktemp -d "$state/candidate.XXXXXXXX")
trap 'rm -rf "$work"' EXIT
# What killed ones left.
find "$state" -maxdepth 1 -name 'candidate.*' -mmin +60 -exec rm -rf {} +
find "$state/staged" -maxdepth 1 -name 'baal-agent.*' -mmin +60 -delete
install -m 600 "$config" "$work/config.json"
outcome=0
if ! { cmp -s "$binary" "$program" && has_config "$work/config.json"; }; then
    # The new program checks the new configuration before anything of the old installation changes.
    case $binary in
        "$program" | "$staged") check=$binary ;;
        *) check=$work/baal-agent; install -m 700 "$binary" "$check" ;;
    esac
    trying timeout -k 2 30 "$check" --config "$work/config.json" --check </dev/null >/dev/null
fi
if [ $outcome != 0 ]; then
    echo "install: the program does not accept the configuration (see above); nothing of the agent was changed" >&2
else
    since=$(date +%s)
    trying attempt "$binary" "$work/config.json"
    if [ $outcome = 0 ]; then
        keep "$binary" "$work/config.json"
        # From now on people may talk to it.
        if [ -n "$take_over" ] && [ -e "$state/python/taken" ]; then : >"$state/python/answered"; fi
        [ -s "$dirty" ] || did "nothing was new"
        rm -f "$dirty" "$staged" "$staged".*
        # Whoever asks without knows of nothing any more that could have to go back.
        if [ -z "$take_over" ] && { [ -d "$state/python" ] || [ -d "$state/python.gone" ]; }; then bash "$here/takeover.sh" --settle; fi
        did "the agent is healthy"
        exit 0
    fi
    echo "install: the agent is not healthy; these are its last words:" >&2
    journalctl -u baal-agent.service --since "@$since" -n 20 --no-pager -q -o cat >&2 || true
fi

if [ -n "$take_over" ]; then
    outcome=0
    bash "$here/takeover.sh" --give-back || outcome=$?
    case $outcome in
        0) echo "install: the Python agent runs again" >&2; exit 76 ;;
        3) ;;
        *) fail "nor does the Python agent run again; more with: journalctl -u baal-agent.service" ;;
    esac
fi
if ! (cd "$good" 2>/dev/null && sha256sum --status -c SHA256SUMS 2>/dev/null); then
    fail "there is no earlier program and configuration to go back to; more with: journalctl -u baal-agent.service"
fi
trying attempt "$(readlink -f "$good")/baal-agent" "$(readlink -f "$good")/config.json"
[ $outcome = 0 ] || fail "nor is the one before it; more with: journalctl -u baal-agent.service"
rm -f "$dirty" "$staged" "$staged".*
echo "install: the program and configuration before it run again" >&2
exit 76
