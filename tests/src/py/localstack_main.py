"""Starts LocalStack in host mode, as `localstack start --host` does, but listening on the loopback interface only."""
from twisted.internet import endpoints

# LocalStack gives its endpoint no interface, so that it would listen on 0.0.0.0 whatever GATEWAY_LISTEN says.
_endpoint = endpoints.TCP4ServerEndpoint


def _loopback_endpoint(reactor, port, backlog=50, interface="127.0.0.1"):
    return _endpoint(reactor, port, backlog, interface or "127.0.0.1")


endpoints.TCP4ServerEndpoint = _loopback_endpoint

from localstack.runtime.main import main  # noqa: E402  the endpoint must be replaced first

main()
