# A WebSocket server for an example: sends every short message back (RFC 6455).
use strict;
use warnings;
use IO::Socket::INET;

$SIG{CHLD} = 'IGNORE';
$SIG{TERM} = sub { exit };
my $door = IO::Socket::INET->new(LocalPort => 9000, Listen => 16, ReuseAddr => 1) or die "port 9000: $!";
while (1) {
    my $client = $door->accept or next;
    next if fork;
    my ($head, $byte) = ('', '');
    $head .= $byte while $head !~ /\r\n\r\n$/ && sysread $client, $byte, 1;
    my ($key) = $head =~ /^Sec-WebSocket-Key: (\S+)\r$/mi or exit;
    exit if $key =~ m{[^A-Za-z0-9+/=]};
    my $accept = `printf %s $key\E258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | openssl sha1 -binary | openssl base64`;
    chomp $accept;
    print $client "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        "Sec-WebSocket-Accept: $accept\r\n\r\n";
    $client->flush;
    # A client's frame: two bytes, four of a mask, at most 125 of a message.
    while (6 == read $client, my $frame, 6) {
        my ($kind, $length, $mask) = unpack 'CCa4', $frame;
        ($length &= 127) < 126 or exit;
        $length == read $client, my $message, $length or exit;
        $message ^= substr $mask x 32, 0, $length;
        print $client pack('CC', $kind, $length), $message;
        $client->flush;
        exit if ($kind & 15) == 8;
    }
    exit;
}
