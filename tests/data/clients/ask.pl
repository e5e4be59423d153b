# SOAP::Lite: endpoint, namespace and SOAPAction from the WSDL, rows and content as JSON. It names
# a request after its operation, not after its element, so the element's name is said here.
use strict;
use warnings;
use SOAP::Lite;
use JSON::PP;

my ($endpoint, $token, @ids) = @ARGV;
my $methods = SOAP::Schema->new(schema_url => "$endpoint?wsdl")->parse->services->{Lms};

sub ask {
    my ($name, @parameters) = @_;
    my $method = $methods->{$name};
    my $request = SOAP::Data->name("${name}Request")->attr({xmlns => $method->{namespace}});
    my $action = q(") . $method->{soapaction}->value . q(");
    my $client = SOAP::Lite->proxy($method->{endpoint}->value)->on_action(sub { $action });
    my $credentials = SOAP::Data->name(credentials => \SOAP::Data->name(token => $token)->type("string"));
    my $answer = $client->call($request, $credentials, @parameters);
    die $answer->faultstring if $answer->fault;
    return $answer;
}

my %rows;
for my $id (@ids) {
    my $parameter = SOAP::Data->name(contentItemId => $id)->type("string");
    my @found = ask("GetContentItemFinalStatuses", $parameter)->valueof("//statuses/status");
    $rows{$id} = [map { [$_->{userId}, $_->{status}, 0 + $_->{progress}] } @found];
}
my @content = map { [$_->{contentItemId}, $_->{title}, $_->{type}] } ask("GetContent")->valueof("//contentItem");
print JSON::PP->new->ascii->canonical->encode({rows => \%rows, content => \@content});
