#!/usr/bin/perl
# A stand-in for k3s: it takes the place of the program on an image that has none, and serves what the words of the
# scenarios ask for: a server's API that nodes join by a token, `kubectl get nodes -o json`, `kubectl get --raw /readyz`.
# It runs no container and is no Kubernetes. A line of text is a request: "TOKEN NAME ADDRESS ROLE READY" of a node, each
# second anew, or "nodes" or "readyz".
use strict;
use warnings;
use IO::Socket::INET;

my $standing = 5;    # Seconds that a node counts after it was last heard of.
$| = 1;

# Configuration: flags, then the files of config.yaml.d, then the environment, as k3s has them.
sub options {
    my %option = map { /^--([^=]+)=(.*)$/ ? ( $1, $2 ) : () } @_;
    for ( my $i = 0 ; $i < @_ ; $i++ ) {
        $option{$1} = $_[ $i + 1 ] if $_[$i] =~ /^--([a-z-]+)$/ && defined $_[ $i + 1 ];
    }
    for my $file ( sort glob '/etc/rancher/k3s/config.yaml.d/*.yaml' ) {
        open my $yaml, '<', $file or die "$file: $!\n";
        /^([a-z-]+): "?([^"\n]*)"?$/ and $option{$1} = $2 while <$yaml>;
    }
    $option{token}  //= $ENV{K3S_TOKEN};
    $option{server} //= $ENV{K3S_URL};
    if ( my $file = $option{'token-file'} ) {
        open my $from, '<', $file or die "$file: $!\n";
        chomp( $option{token} = <$from> );
    }
    return \%option;
}

sub ask {
    my ( $host, $line ) = @_;
    my $api = IO::Socket::INET->new( PeerAddr => $host, PeerPort => 6443, Timeout => 5 ) or return;
    print $api "$line\n";
    local $/;
    return scalar <$api>;
}

sub node {
    my ( $name, $address, $role, $ready, $heard ) = @_;
    my ( $status, $reason, $message ) = ( 'True', 'KubeletReady', 'kubelet is posting ready status' );
    ( $status, $reason, $message ) = ( 'False', 'KubeletNotReady', 'the stand-in was told not to be' ) if !$ready;
    ( $status, $reason, $message ) = ( 'Unknown', 'NodeStatusUnknown', 'Kubelet stopped posting node status.' )
      if $heard < time - $standing;
    my @condition = (qq({"type":"Ready","status":"$status","reason":"$reason","message":"$message"}));
    push @condition, '{"type":"EtcdIsVoter","status":"True","reason":"MemberNotLearner"}' if $role eq 'server';
    my $labels = $role eq 'server' ? '"node-role.kubernetes.io/etcd":"true"' : '';
    return qq({"metadata":{"name":"$name","labels":{$labels}},"status":{"addresses":[)
      . qq({"type":"InternalIP","address":"$address"}],"conditions":[)
      . join( ',', @condition )
      . qq(],"nodeInfo":{"kubeletVersion":"v0.0.0+stand-in"}}});
}

sub serve {
    my ($option) = @_;
    my $api = IO::Socket::INET->new( LocalPort => 6443, Listen => 16, ReuseAddr => 1 ) or die "6443: $!\n";
    my %nodes;
    while ( my $client = $api->accept ) {
        my @word = split ' ', <$client> // '';
        if    ( @word == 1 && $word[0] eq 'readyz' ) { print $client "[+]ping ok\n[+]etcd ok\nreadyz check passed\n" }
        elsif ( @word == 1 && $word[0] eq 'nodes' ) {
            print $client '{"kind":"NodeList","items":[' . join( ',', map { node( @{ $nodes{$_} } ) } sort keys %nodes ) . "]}\n";
        }
        elsif ( @word == 5 && $word[0] eq $option->{token} ) {
            $nodes{ $word[1] } = [ @word[ 1 .. 4 ], time ];
            print $client "joined\n";
        }
        else { print $client "401 Unauthorized\n" }
        close $client;
    }
}

sub keep_joined {
    my ( $role, $option ) = @_;
    chomp( my $name = `hostname` );
    my ($host) = ( $option->{server} // 'https://127.0.0.1:6443' ) =~ m{//([^:]+)} or die "no server to join\n";
    while (1) {
        my $ready = -e '/run/k3s-not-ready' ? 0 : 1;
        my $said  = ask( $host, "$option->{token} $name $option->{'node-ip'} $role $ready" ) // "no answer of $host\n";
        print STDERR "level=error msg=\"failed to join: $said\"\n" if $said ne "joined\n";
        sleep 1;
    }
}

my ( $verb, @rest ) = @ARGV;
if ( $verb eq 'kubectl' ) {
    my $raw    = grep { /readyz/ } @rest;
    my $answer = ask( '127.0.0.1', $raw ? 'readyz' : 'nodes' ) // die "The connection to the server was refused\n";
    print $answer;
    exit;
}
my $option = options(@rest);
if ( $verb eq 'server' && !$option->{server} ) {
    die "no cluster-init\n" if ( $option->{'cluster-init'} // '' ) ne 'true';
    my $child = fork // die "fork: $!\n";
    keep_joined( 'server', $option ) if !$child;
    serve($option);
}
keep_joined( $verb, $option );
