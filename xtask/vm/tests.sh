#!/bin/bash
# tests.sh PROGRAM EACH UNTIL RECORD [WORD...], in a guest: the tests of a test program whose names have a WORD (all without words),
# each in a process of its own, so that none is judged by what another has left, and one that hangs costs its own time only: EACH
# seconds. None is begun once the guest has run for UNTIL seconds, and none that has passed by the file RECORD, which has lines as
# are printed here. Prints a line for each, and what failed tests have said:
#   ## OUTCOME SECONDS NAME       OUTCOME: passed, lacking (passed, but said what this kernel lacks), ignored, failed, late, unrun
# Exit status: 0 if all passed.
set -u
program=$1 each=$2 until=$3 record=$4
shift 4
up() { read -r now _ < /proc/uptime; echo "${now%.*}"; }
# Processes with a program: not the kernel's own threads.
alive() { for process in /proc/[0-9]*; do [ -e "$process/exe" ] && echo "${process#/proc/}"; done; }
wanted() {
    [ $# -gt 1 ] || return 0
    local name=$1 word
    shift
    for word in "$@"; do case $name in *"$word"*) return 0 ;; esac; done
    return 1
}
# What a test that takes too long waits for, just before it is ended.
look_into() {
    sleep $((each > 20 ? each - 10 : each / 2))
    echo "-- processes, and where in the kernel they wait:"
    for process in $(alive); do
        case $1 in *" $process "*) continue ;; esac
        for task in /proc/"$process"/task/*; do
            echo "$process ${task##*/} $(tr '\0' ' ' < /proc/"$process"/cmdline | cut -c 1-150): $(head -n 4 "$task/stack" 2> /dev/null |
                sed 's/.*\] //; s/+.*//' | tr '\n' ' ')"
        done
    done
    echo "-- the ends of daemons' logs:"
    tail -n 25 /tmp/.tmp*/log 2> /dev/null
}
echo "## kernel $(uname -r)"
bad=0
said=$(mktemp -p /run)
for name in $("$program" --list --format terse | sed -n 's/: test$//p'); do
    wanted "$name" "$@" || continue
    grep " $name\$" "$record" | tail -n 1 | grep -qE '^## (passed|lacking|ignored) ' && continue
    begin=$(up)
    if [ "$begin" -ge "$until" ]; then
        echo "## unrun 0 $name"
        bad=1
        continue
    fi
    before=" $(alive | tr '\n' ' ')"
    : > "$said"
    look_into "$before" >> "$said" 2>&1 &
    looking=$!
    timeout --kill-after=10 "$each" "$program" --exact "$name" --test-threads=1 --nocapture >> "$said" 2>&1
    status=$?
    kill $looking 2> /dev/null
    wait $looking 2> /dev/null
    seconds=$(($(up) - begin))
    case $status in
        0) outcome=passed ;;
        124 | 137) outcome=late ;;
        *) outcome=failed ;;
    esac
    if [ $status = 0 ]; then
        grep -q '^test result: ok. 0 passed; 0 failed; 1 ignored' "$said" && outcome=ignored
        grep -qE '(^|\.\.\. )(not run here|skipped):' "$said" && outcome=lacking
        grep -vE '^$|^running 1 test$|^test .* ok$|^ok$|^test result: ' "$said" | head -n 40
    else
        bad=1
        head -n 300 "$said"
    fi
    echo "## $outcome $seconds $name"
    # What a test that failed has left would fail others.
    for process in $(alive); do
        case $before in *" $process "*) ;; *) kill -9 "$process" 2> /dev/null ;; esac
    done
    rm -rf /tmp/* /tmp/.??*
done
exit $bad
