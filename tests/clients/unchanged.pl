# Perl that never uses rings: sockets, pipes, select, forks, system. Prints what it saw.
use strict;
use warnings;
use Socket;
use IO::Select;
$| = 1;
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die "socketpair: $!";
syswrite $a, "hello";
print "ready ", scalar(IO::Select->new($b)->can_read(1)), "\n";
sysread $b, my $got, 10;
print "got $got\n";
pipe(my $r, my $w) or die;
my $pid = fork;
if (!$pid) { close $r; syswrite $w, "child"; exit 4 }
close $w;
sysread $r, my $line, 10;
waitpid $pid, 0;
print "fork $line ", $? >> 8, "\n";
print "system ", system("sh", "-c", "exit 5") >> 8, "\n";
print "backticks ", `echo out`;
open(my $dup, ">&", \*STDOUT) or die;
print $dup "dup\n";
close $dup;
print "alarm ", (eval { local $SIG{ALRM} = sub { die "rung\n" }; alarm 1; select undef, undef, undef, 5; 1 } ? "no" : $@);
