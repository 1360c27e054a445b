# A shell script that never uses rings: redirections, pipes, jobs, traps. Prints what it saw.
exec 9>&1
echo "to nine" >&9
exec 9>&-
printf '%s\n' one two three | while read -r x; do echo "read $x"; done
(exit 3) || echo "status $?"
sleep 0.1 & wait $! && echo waited
trap 'echo trapped' USR1
kill -USR1 $$
cat <<HERE
here document
HERE
read -r -t 0.1 x < <(echo substituted) && echo "$x"
coproc tr a-z A-Z
echo shout >&"${COPROC[1]}"
eval "exec ${COPROC[1]}>&-"
read -r x <&"${COPROC[0]}" && echo "$x"
for i in 3 4 5 6 7; do eval "exec $i>&-"; done
ulimit -n >/dev/null && echo done
